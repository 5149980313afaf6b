"""From where a node copies an expert."""

from __future__ import annotations

from dataclasses import dataclass

from migrations.cluster import Cluster, members


@dataclass(frozen=True, slots=True)
class Wait:
    """A busy sender would still be done earlier than any idle one."""

    sender: int
    seconds: float


def choose_source(
    cluster: Cluster,
    node: int,
    column: int,
    now: float,
    idle: int,
    busy: int,
    load: list[float],
    claims: dict[int, float],
) -> int | Wait | None:
    """The sender from which the copy ends first; None where none that the node reaches has the expert.

    `idle` is the mask of senders to choose from, `busy` of those without a free slot. Among equally fast
    ones the one with the least `load` (seconds of copies it is needed for), so that scarce senders stay
    free, and peers before the origin. A busy sender is worth waiting for where its present copy, the seconds
    others already claimed of it in `claims`, and then this copy end before an idle sender would end it.
    O(senders that have the expert).
    """
    holders = (cluster.serving[column] | 1 << cluster.origin) & cluster.reach[node]
    size = cluster.size[column]
    best: int | None = None
    best_key = (float("inf"), float("inf"))
    for m in members(holders & idle):
        key = (size / cluster.rate[m][node], load[m])
        if key < best_key:
            best, best_key = m, key
    waiting: int | None = None
    finish = best_key[0]
    for m in members(holders & busy):
        seconds = size / cluster.rate[m][node]
        if seconds >= finish:
            continue
        until = min(cluster.senders[m].ends) - now + claims.get(m, 0.0) + seconds
        if until < finish:
            waiting, finish = m, until
    if waiting is not None and best is not None:
        return Wait(waiting, size / cluster.rate[waiting][node])
    return best
