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


class BusySenders:
    """What the senders without a free slot could do for one node at one instant, worked out once for each.

    `busy` and `claims` are those of `choose_source`; both, and the copies that run, must stay as they are.
    """

    def __init__(self, cluster: Cluster, node: int, now: float, busy: int, claims: dict[int, float]) -> None:
        self._cluster = cluster
        self._serving, self._size, self._by_rate = cluster.serving, cluster.size, cluster.by_rate[node]
        self._origin = 1 << cluster.origin
        self._node = node
        self._now = now
        self._busy = busy
        self._claims = claims
        # By size and rate of an idle sender: the busy ones looked at, and those of them that end earlier.
        self._looked_at: dict[tuple[int, float], tuple[int, int]] = {}

    def worth_waiting_for(self, column: int, idle: int) -> bool:
        """Whether `choose_source` says `Wait`. O(distinct rates into the node), and once O(busy senders)."""
        holders = self._serving[column] | self._origin
        late, ready = holders & self._busy, holders & idle
        if not late:
            return False
        for rate, senders in self._by_rate:
            if not senders & ready:
                continue
            size = self._size[column]
            looked_at, earlier = self._looked_at.get((size, rate), (0, 0))
            if late & earlier:
                return True
            unknown = late & ~looked_at
            if unknown:
                for m in members(unknown):
                    if self._until(m, size) < size / rate:
                        earlier |= 1 << m
                self._looked_at[size, rate] = looked_at | unknown, earlier
            return bool(late & earlier)
        return False

    def _until(self, sender: int, size: int) -> float:
        cluster = self._cluster
        return (
            min(cluster.senders[sender].ends)
            - self._now
            + self._claims.get(sender, 0.0)
            + size / cluster.rate[sender][self._node]
        )
