"""Whether a plan keeps its rules in every order its dependencies allow, whatever the times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from migrations.diff import Difference
from migrations.model import ORIGIN, Move, MoveKind, Plan
from migrations.naming import Names
from solvers.problem import PlacementProblem

# (move, bytes or copies it moves, moves that must be over before it), as a bitmask of positions in the order
_Weighted = list[tuple[int, int, int]]


class Reordering:
    """Looks at a plan as a partial order. `order`: its moves, each after those it depends on.

    Memory of a node, in the worst order, is the heaviest set of moves that is closed under dependencies, a
    copy counting its bytes and a drop minus its bytes. By duality it stays within the capacity exactly if
    the bytes of the copies, less what is free at the start, can be drawn from drops each copy depends on, no
    byte twice: a flow from drops to copies. The same, copies and drops exchanged, bounds the serving copies.
    """

    def __init__(
        self, problem: PlacementProblem, change: Difference, plan: Plan, order: list[Move], names: Names
    ) -> None:
        self._names = names
        self._order = order
        self._problem = problem
        self._change = change
        rank = {move.move_id: i for i, move in enumerate(order)}
        self._direct: list[int] = []
        self._before: list[int] = []
        for move in order:
            direct = 0
            before = 0
            for name in move.depends_on:
                direct |= 1 << rank[name]
                before |= self._before[rank[name]]
            self._direct.append(direct)
            self._before.append(direct | before)
        self._column = [int(problem.block_offset[move.block]) + move.expert for move in order]

    def errors(self) -> Iterator[tuple[str | None, str]]:
        """(move, what may go wrong) in some order the dependencies allow. O(moves^2 / 64), and a flow where
        the direct dependencies alone do not show that memory and serving copies hold."""
        yield from self._held_errors()
        yield from self._memory_errors()
        yield from self._serving_errors()

    def _held_errors(self) -> Iterator[tuple[str | None, str]]:
        """Moves that bring or take one expert on one node, and those that read it there, must be ordered."""
        last: dict[tuple[int, int], int] = {}
        readers: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, move in enumerate(self._order):
            key = (move.destination, self._column[i])
            earlier = last.get(key)
            if earlier is not None and not self._precedes(earlier, i):
                yield (
                    move.move_id,
                    f"may come before {self._order[earlier].move_id}, of the same expert and node",
                )
            if move.kind is MoveKind.DROP:
                for reader in readers.pop(key, []):
                    if not self._precedes(reader, i):
                        yield (
                            move.move_id,
                            f"may come before {self._order[reader].move_id} has read the expert",
                        )
            last[key] = i
            if move.kind is MoveKind.COPY and move.source is not None and move.source != ORIGIN:
                origin = (move.source, self._column[i])
                brought = last.get(origin)
                if brought is not None and not self._precedes(brought, i):
                    yield (
                        move.move_id,
                        f"may come before {self._order[brought].move_id} is over, which it copies from",
                    )
                readers[origin].append(i)

    def _memory_errors(self) -> Iterator[tuple[str | None, str]]:
        used = self._change.source.used_bytes(self._problem)
        copies: dict[int, _Weighted] = defaultdict(list)
        drops: dict[int, _Weighted] = defaultdict(list)
        for i, move in enumerate(self._order):
            kind = copies if move.kind is MoveKind.COPY else drops
            kind[move.destination].append((i, move.bytes, self._before[i]))
        for node, wanted in copies.items():
            free = int(self._problem.capacity_bytes[node] - used[node])
            if free < 0:  # a debt that every copy has to find paid
                common = wanted[0][2]
                for _, _, before in wanted[1:]:
                    common &= before
                wanted = [(-1, -free, common), *wanted]
            over = self._unmet(wanted, drops[node], max(free, 0)) - max(free, 0)
            if over > 0:
                yield None, f"{self._names.node(node)} may exceed its memory by {over} bytes"

    def _serving_errors(self) -> Iterator[tuple[str | None, str]]:
        copies: dict[int, _Weighted] = defaultdict(list)
        drops: dict[int, _Weighted] = defaultdict(list)
        for i, move in enumerate(self._order):
            kind = copies if move.kind is MoveKind.COPY else drops
            kind[self._column[i]].append((i, 1, self._before[i]))
        held = self._change.source.holds.sum(axis=0, dtype=int)
        for column, taken in drops.items():
            spare = int(held[column] - self._change.keep[column])
            short = self._unmet(taken, copies[column], spare) - spare
            if short > 0:
                move = self._order[taken[-1][0]]
                what = self._names.expert_of(move.block, move.expert)
                yield None, f"{what} may have {short} serving copies too few"

    def _precedes(self, first: int, second: int) -> bool:
        return bool(self._before[second] >> first & 1)

    def _unmet(self, wanted: _Weighted, given: _Weighted, enough: int) -> int:
        """The least total of `wanted` that cannot be drawn from `given` moves before it, or `enough`."""
        left = {i: amount for i, amount, _ in given}
        drawn: dict[int, dict[int, int]] = {i: {} for i, _, _ in given}
        unmet = 0
        short: list[tuple[int, int]] = []
        ahead = {i: before for i, _, before in wanted}
        for i, amount, before in wanted:
            mask = self._direct[i] if i >= 0 else before
            for j in left:
                if not amount:
                    break
                if left[j] and mask >> j & 1:
                    amount -= self._draw(left, drawn, j, i, amount)
            if amount:
                short.append((i, amount))
                unmet += amount
        for i, amount in short:
            while amount and unmet > enough:
                moved = self._augment(left, drawn, ahead, i, amount)
                if not moved:
                    break
                amount -= moved
                unmet -= moved
        return unmet

    @staticmethod
    def _draw(left: dict[int, int], drawn: dict[int, dict[int, int]], j: int, i: int, amount: int) -> int:
        taken = min(left[j], amount)
        left[j] -= taken
        drawn[j][i] = drawn[j].get(i, 0) + taken
        return taken

    @staticmethod
    def _augment(
        left: dict[int, int],
        drawn: dict[int, dict[int, int]],
        ahead: dict[int, int],
        start: int,
        amount: int,
    ) -> int:
        """One augmenting path of the flow, from the wanting move `start`; the amount it moved."""
        came: dict[int, int] = {}  # giver -> the wanting move that reached it
        through: dict[int, int] = {start: -2}  # wanting move -> the giver it would give back to
        queue = [start]
        for i in queue:
            for j in left:
                if j in came or not ahead[i] >> j & 1:
                    continue
                came[j] = i
                if left[j]:
                    path = [j]
                    while through[came[path[-1]]] != -2:
                        path.append(through[came[path[-1]]])
                    step = min(amount, left[j])
                    for later, earlier in zip(path[1:], path, strict=False):
                        step = min(step, drawn[later][came[earlier]])
                    left[j] -= step
                    for position, giver in enumerate(path):
                        taker = came[giver]
                        drawn[giver][taker] = drawn[giver].get(taker, 0) + step
                        if position + 1 < len(path):
                            drawn[path[position + 1]][taker] -= step
                    return step
                for other, taken in drawn[j].items():
                    if taken and other not in through:
                        through[other] = j
                        queue.append(other)
        return 0
