"""The cluster in arrays. N nodes, E columns (experts over all blocks), D devices, R routes of K experts.

A sender is a node or, at index N, the origin. A set of senders is W = N // 64 + 1 words: bit m % 64 of word
m // 64.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Shorts = npt.NDArray[np.int32]
Flags = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Records = npt.NDArray[Any]
Numbers = npt.NDArray[Any]

START, DROP, FINISH = 0, 1, 2
"""Kinds of log entries."""

NODE: Final = np.dtype(
    [
        ("receiving", "i8"),  # copies that run
        ("sending", "i8"),
        ("slots", "i8"),  # sends at once, at most
        ("waiting", "i8"),  # missing columns
        ("spares", "i8"),  # superfluous columns
        ("remaining", "f8"),  # seconds of copies still to receive, at best
        ("fastest", "f8"),  # seconds per byte into the node, at best
        ("out_pace", "f8"),  # seconds per byte out of it, at best; 0 where it can't send
        ("load", "f8"),  # seconds it still has to send, an expert's being shared among its holders
        ("claims", "f8"),  # seconds others wait for it while it is busy
        ("free_at", "f8"),  # when the first of the copies it sends ends, inf where it sends none
        ("origin", "f8"),  # seconds of a call from here to the origin
    ]
)
COLUMN: Final = np.dtype(
    [
        ("size", "i8"),  # bytes
        ("kind", "i8"),  # index of the size among the sizes
        ("spare", "i8"),  # drops that may come now
        ("wanted", "i8"),  # nodes it is missing on
        ("arriving", "i8"),  # copies that run
        ("dirty", "u1"),  # its gain and loss are stale
        ("making_room", "u1"),  # a node short of room may drop it once one more copy is in place
    ]
)
PAIR: Final = np.dtype(
    [
        ("gain", "f8"),  # seconds per second that a copy would save
        ("loss", "f8"),  # and that a drop would cost
        ("reading", "i4"),  # copies that read here
        ("place", "i4"),  # the device it lies on
        ("position", "i4"),  # in `pending` or `surplus`
        ("planned", "i4"),  # copies still to start that an allocation has this node send
        ("sender", "i4"),  # 1 + the sender that an allocation has it come from; 0 where there is none
        ("parked", "u1"),  # stays until nobody waits for the expert
    ]
)
CALL: Final = np.dtype(
    [
        ("node", "i4"),
        ("nearest", "i4"),  # the cheapest server, N for the origin
        ("weight", "f8"),  # activations per second by tokens of the node
        ("cost", "f8"),  # seconds of the cheapest call now
    ]
)
ROUTE: Final = np.dtype([("rate", "f8"), ("goal", "f8"), ("value", "f8")])  # latency: in the target, now
RUN: Final = np.dtype([("source", "i8"), ("node", "i8"), ("column", "i8"), ("entry", "i8"), ("end", "f8")])
LOG: Final = np.dtype(
    [
        ("kind", "i8"),
        ("source", "i8"),
        ("node", "i8"),
        ("column", "i8"),
        ("place", "i8"),  # the device that gives the bytes, or gets them back
        ("seconds", "f8"),
    ]
)
CLOCK: Final = np.dtype(
    [
        ("seconds", "f8"),
        ("latency", "f8"),  # of all tokens now, seconds per second
        ("area", "f8"),  # its integral over time
        ("entries", "i8"),  # of the log
        ("running", "i8"),  # copies
        ("recount_in", "i8"),  # ends of copies until loads are counted anew
        ("counts", "i8"),
    ]
)


class State(NamedTuple):
    """The cluster as a schedule unfolds: the one ledger of who holds what. The records are described at their
    types.

    nodes NODE[N + 1]; columns COLUMN[E]; pairs PAIR[N, E], of which only rows that a move touches are ever
    written; routes ROUTE[R]; runs RUN[copies at once], the first clock.running of them; log LOG[L], the first
    clock.entries of them, a FINISH having the entry it ends as its source; clock CLOCK[1]. pace
    float64[N + 1, N]: seconds per byte of a copy. reach uint64[N, W]: senders a node can copy from.
    Sets of nodes uint64[E, W]: holders, those that serve, the origin always; target; missing, on which a copy
    has to start, in the target or to pass it on; superfluous. idle, scarce uint64[1, W]: senders. pending,
    surplus int32[N, E]: missing and superfluous columns of each node, the first waiting and spares of them.
    failed uint8[N, sizes]: no room, until something happens. first_device int64[N + 1] into free int64[D]
    bytes. distance float64[N, N] seconds of a call from the row to the column. calls CALL[C]: what nodes
    call, by column, then node; those of column e from first_call[e] up to first_call[e + 1]. route_calls
    int32[R, K] into calls, -1 pads; the routes that make call c are those in route_index from first_route[c]
    up to first_route[c + 1], where `coupled`. receives: copies into a node at once; most: copies at once, 0
    for no cap.
    """

    nodes: Records
    columns: Records
    pairs: Records
    routes: Records
    runs: Records
    log: Records
    clock: Records
    pace: Floats
    reach: Words
    holders: Words
    target: Words
    missing: Words
    superfluous: Words
    idle: Words
    scarce: Words
    pending: Shorts
    surplus: Shorts
    failed: Flags
    first_device: Ints
    free: Ints
    distance: Floats
    calls: Records
    first_call: Ints
    route_calls: Shorts
    first_route: Ints
    route_index: Shorts
    coupled: int
    receives: int
    most: int
