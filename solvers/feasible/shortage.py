"""What a fleet lacks for a feasible placement: how many bytes, and what would give it room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, sparse

from solvers.feasible.repair import Programme, allowance
from solvers.problem import PlacementProblem, UInt8

COUNT_SECONDS = 2.0
"""The time one integer programme may take."""

_INFEASIBLE = 2  # of scipy's statuses: proved

MAX_TRIED_ALONE = 8
"""Of the nodes that may hold nothing, so many, the roomiest, are tried one by one."""

MAX_FEWER_REPLICAS = 4
"""So many smaller numbers of replicas are tried."""


@dataclass(frozen=True)
class Unplaced:
    """Copies that find no place, however well the others are placed.

    bytes: of all of them; a node with this much memory on one device holds them all where `nodes` is 1.
    nodes: how many more nodes it takes at least, since a node holds each expert once.
    proved: no placement leaves fewer bytes without a place; otherwise one might.
    """

    copies: int
    bytes: int
    nodes: int
    proved: bool


NONE_UNPLACED = Unplaced(0, 0, 0, True)


@dataclass(frozen=True)
class Shortage:
    """Why no placement is feasible, and what would give one.

    unplaced: what finds no place on the nodes that may hold experts; None where pins rule every placement
    out. wanted: copies that must be held in all.
    blocked: rows of nodes that have memory and may hold nothing now (lost or draining).
    returning: sets of rows out of `blocked`, each of which makes room by returning as a whole; none where all
    of them together do not, and then `still_unplaced` is what would find no place even so.
    replicas: the largest min_replicas of at least 1, smaller than the one asked for, with which a placement
    is feasible; None: none.
    origin: every node reaches an origin, so that with min_replicas 0 it serves what finds no place.
    largest_expert, largest_device: bytes; of the devices that may hold experts.
    """

    min_replicas: int
    wanted: int
    unplaced: Unplaced | None
    usable: int
    blocked: tuple[int, ...]
    returning: tuple[tuple[int, ...], ...]
    still_unplaced: Unplaced | None
    replicas: int | None
    origin: bool
    largest_expert: int
    largest_device: int


def unplaced(problem: PlacementProblem) -> Unplaced | None:
    """The copies that find no place, of least bytes; None where no placement keeps the pins.

    Exact by counting where all experts have one size and nothing is pinned: O(N + devices). Otherwise an
    integer programme over kinds of experts, for COUNT_SECONDS at most; what it then has is a placement, so
    the bytes are enough but might not be the least.
    """
    if problem.experts == 0 or (problem.min_replicas == 0 and problem.pins is None):
        return NONE_UNPLACED
    sizes = np.unique(problem.column_bytes)
    if len(sizes) == 1 and problem.pins is None:
        return _counted(problem, int(sizes[0]))
    return _programmed(problem)


def shortage(problem: PlacementProblem) -> Shortage | None:
    """None where a placement is feasible. A few times the cost of `unplaced`."""
    found = unplaced(problem)
    if found is not None and found.copies == 0:
        return None
    device_node, device_capacity = problem.devices
    drained = np.zeros(problem.nodes, np.uint8) if problem.drained is None else problem.drained
    blocked = np.flatnonzero((drained == 1) & (problem.capacity_bytes >= problem.column_bytes.min()))
    usable_devices = device_capacity[drained[device_node] == 0]
    returning = _returning(problem, drained, blocked.tolist())
    still = None
    if len(blocked) and not returning:
        still = unplaced(problem.replace(drained=_returned(drained, blocked.tolist())))
    return Shortage(
        min_replicas=problem.min_replicas,
        wanted=problem.min_replicas * problem.experts,
        unplaced=found,
        usable=int((drained == 0).sum()),
        blocked=tuple(blocked.tolist()),
        returning=returning,
        still_unplaced=still,
        replicas=_fewer_replicas(problem),
        origin=problem.has_origin,
        largest_expert=int(problem.column_bytes.max(initial=0)),
        largest_device=int(usable_devices.max(initial=0)),
    )


def _counted(problem: PlacementProblem, size: int) -> Unplaced:
    """A node holds as many experts as fit on its devices, each once; dealt out in turn, these copies leave
    none twice on a node and none above min_replicas."""
    device_node, device_capacity = problem.devices
    slots = np.zeros(problem.nodes, np.int64)
    np.add.at(slots, device_node, device_capacity // size)
    if problem.drained is not None:
        slots[problem.drained == 1] = 0
    experts = problem.experts
    missing = max(0, problem.min_replicas * experts - int(np.minimum(slots, experts).sum()))
    return Unplaced(missing, missing * size, -(-missing // experts), True)


def _programmed(problem: PlacementProblem) -> Unplaced | None:
    pins, drained = problem.pins, problem.drained
    if pins is not None and drained is not None and (pins[drained == 1] == 1).any():
        return None
    programme = Programme(problem, allowance(problem))
    kinds, held = len(programme.count), len(programme.count) * programme.devices
    wanted = (programme.count * problem.min_replicas).astype(float)
    unit = int(np.gcd.reduce(programme.size))
    answer = optimize.milp(
        np.concatenate([np.zeros(held), (programme.size // unit).astype(float)]),
        integrality=np.ones(held + kinds, np.int64),
        bounds=optimize.Bounds(0, np.concatenate([programme.bounds.ub, wanted])),
        constraints=[
            *programme.constraints(kinds),
            optimize.LinearConstraint(
                sparse.csr_array(sparse.hstack([programme.replicas, sparse.eye_array(kinds)])), wanted, np.inf
            ),
        ],
        options={"time_limit": COUNT_SECONDS},
    )
    if answer.x is None:
        if answer.status == _INFEASIBLE:
            return None
        # nothing was found in the time: that nothing is placed is always enough
        copies = int(wanted.sum())
        return Unplaced(copies, int(wanted @ programme.size), problem.min_replicas, False)
    left = np.rint(answer.x[held:]).astype(np.int64)
    nodes = int((-(-left // programme.count)).max(initial=0))
    return Unplaced(int(left.sum()), int(left @ programme.size), nodes, bool(answer.status == 0))


def _returned(drained: UInt8, rows: Sequence[int]) -> UInt8:
    after = drained.copy()
    after[list(rows)] = 0
    return after


def _fits_with(problem: PlacementProblem, drained: UInt8, rows: Sequence[int]) -> bool:
    found = unplaced(problem.replace(drained=_returned(drained, rows)))
    return found is not None and found.copies == 0


def _returning(problem: PlacementProblem, drained: UInt8, blocked: list[int]) -> tuple[tuple[int, ...], ...]:
    """Every node that alone makes room; where none does, the roomiest together that do."""
    roomiest = sorted(blocked, key=lambda row: (-int(problem.capacity_bytes[row]), row))
    if not roomiest or not _fits_with(problem, drained, roomiest):
        return ()
    alone = [row for row in roomiest[:MAX_TRIED_ALONE] if _fits_with(problem, drained, [row])]
    if alone:
        return tuple((row,) for row in sorted(alone))
    least, most = 1, len(roomiest)  # the first `most` of them make room, the first `least` do not
    while most - least > 1:
        middle = (least + most) // 2
        if _fits_with(problem, drained, roomiest[:middle]):
            most = middle
        else:
            least = middle
    return (tuple(sorted(roomiest[:most])),)


def _fewer_replicas(problem: PlacementProblem) -> int | None:
    asked = problem.min_replicas
    for replicas in range(asked - 1, max(0, asked - 1 - MAX_FEWER_REPLICAS), -1):
        found = unplaced(problem.replace(min_replicas=replicas))
        if found is not None and found.copies == 0:
            return replicas
    return None
