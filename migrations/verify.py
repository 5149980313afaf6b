"""Whether a plan keeps every rule, found by replaying it; independent of the planner."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from migrations.diff import Difference, difference
from migrations.estimate import lower_bound_seconds
from migrations.model import ORIGIN, Limits, Move, MoveKind, Plan, PlanStatus
from migrations.naming import BY_INDEX, Names
from migrations.reordering import Reordering
from migrations.timing import copy_rates
from solvers.feasible.packing import pack
from solvers.problem import Int64, PlacementProblem, UInt8

TOLERANCE: Final = 1e-9
"""Relative to the length of the plan: times closer than this are the same."""

_DEFAULT_LIMITS: Final = Limits()


class Rule(StrEnum):
    STATUS = "STATUS"
    DIGEST = "DIGEST"
    MOVE = "MOVE"
    DEPENDENCY = "DEPENDENCY"
    DURATION = "DURATION"
    CAP = "CAP"
    MEMORY = "MEMORY"
    SOURCE = "SOURCE"
    HOLDING = "HOLDING"
    SERVING = "SERVING"
    END_STATE = "END_STATE"
    ESTIMATE = "ESTIMATE"
    ORDER = "ORDER"


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule broken, by which move (None: by the plan as a whole), and how, in one line."""

    rule: Rule
    move_id: str | None
    detail: str

    def __str__(self) -> str:
        where = "" if self.move_id is None else f" {self.move_id}"
        return f"{self.rule}{where}: {self.detail}"


def verify(
    problem: PlacementProblem,
    source_holds: UInt8,
    target_holds: UInt8,
    plan: Plan,
    limits: Limits = _DEFAULT_LIMITS,
    *,
    names: Names = BY_INDEX,
) -> tuple[Violation, ...]:
    """Every rule of a plan from one placement to another, uint8[N, E], that it breaks; empty: it is right.

    Replays the plan event by event: at one instant copies end first, then drops and starts come in the
    order of their dependencies. Checks ids, bytes, durations, dependencies (known, acyclic, over before),
    caps, memory and packing, sources, serving copies, the end state and the estimate; then that memory,
    sources and serving copies also hold in every other order that `depends_on` allows (`Reordering`; packing
    on several devices is checked in the order of the times only). A placement in force may exceed a node's
    memory; no copy may start there until it does not. An INFEASIBLE plan breaks STATUS. `names` are the words
    of the details.
    Raises `PlanError` where a placement is not one of the problem's, or names don't fit it.
    O(moves^2 / 64 + moves log moves + N E).
    """
    change = difference(problem, source_holds, target_holds)
    names.check(problem)
    if plan.status is PlanStatus.INFEASIBLE:
        return (Violation(Rule.STATUS, None, f"the plan is INFEASIBLE: {plan.reason}"),)
    found: list[Violation] = []
    for key, given, expected in (
        ("from_digest", plan.from_digest, change.source.digest),
        ("to_digest", plan.to_digest, change.target.digest),
    ):
        if given != expected:
            found.append(
                Violation(Rule.DIGEST, None, f"{key}: is {given:.12}..., expected {expected:.12}...")
            )
    malformed = _malformed(problem, plan, limits, names)
    order, unordered = _topological_order(plan)
    if malformed or order is None:
        return (*found, *malformed, *unordered)
    found += unordered
    replay = _Replay(problem, change, plan, limits, names)
    replay.run(order)
    found += replay.found
    proved = lower_bound_seconds(problem, change, limits)
    found += _estimate_errors(plan, proved)
    if not found:
        reordering = Reordering(problem, change, plan, order, names)
        found += [Violation(Rule.ORDER, move_id, detail) for move_id, detail in reordering.errors()]
        found += _bound_errors(plan, proved)
    return tuple(found)


def _malformed(problem: PlacementProblem, plan: Plan, limits: Limits, names: Names) -> list[Violation]:
    """Moves that name what does not exist, or take another time than their copy does."""
    rates = copy_rates(problem, limits)
    slack = _slack(plan)
    found: list[Violation] = []
    seen: set[str] = set()
    for move in plan.moves:
        problems: list[tuple[Rule, str]] = []
        if move.move_id in seen:
            problems.append((Rule.MOVE, "the same move_id twice"))
        seen.add(move.move_id)
        if not 0 <= move.destination < problem.nodes:
            problems.append((Rule.MOVE, f"destination: is {move.destination}, expected a node"))
        elif not 0 <= move.block < problem.blocks:
            problems.append((Rule.MOVE, f"block: is {move.block}, expected 0..{problem.blocks - 1}"))
        elif not 0 <= move.expert < problem.experts_per_block[move.block]:
            last = int(problem.experts_per_block[move.block]) - 1
            problems.append((Rule.MOVE, f"expert: is {move.expert}, expected 0..{last}"))
        elif move.bytes != problem.expert_bytes[move.block]:
            expected = int(problem.expert_bytes[move.block])
            problems.append((Rule.MOVE, f"bytes: is {move.bytes}, expected {expected}"))
        elif move.kind is MoveKind.DROP:
            if move.source is not None:
                problems.append((Rule.MOVE, f"source: is {move.source}, expected null for a DROP"))
            if move.end_seconds != move.start_seconds:
                problems.append((Rule.DURATION, "a DROP takes no time"))
        elif move.source is None or not ORIGIN <= move.source < problem.nodes:
            problems.append((Rule.MOVE, f"source: is {move.source}, expected a node or {ORIGIN}"))
        else:
            # ORIGIN is -1, so it indexes the last row, the origin's.
            rate = float(rates[move.source, move.destination])
            if rate <= 0:
                problems.append(
                    (
                        Rule.SOURCE,
                        f"{names.node(move.destination)} cannot copy from {names.node(move.source)}",
                    )
                )
            elif not abs(move.end_seconds - move.start_seconds - move.bytes / rate) <= slack:
                given = move.end_seconds - move.start_seconds
                problems.append((Rule.DURATION, f"takes {given} s, expected {move.bytes / rate} s"))
        if not (move.start_seconds >= 0 and np.isfinite(move.end_seconds)):
            problems.append((Rule.DURATION, "expected a start of at least 0 and a finite end"))
        found += [Violation(rule, move.move_id, detail) for rule, detail in problems]
    return found


def _topological_order(plan: Plan) -> tuple[list[Move] | None, list[Violation]]:
    """The moves with what they depend on first, earlier starts before; None where there is no such order."""
    found: list[Violation] = []
    index = {move.move_id: i for i, move in enumerate(plan.moves)}
    slack = _slack(plan)
    waits = [0] * len(plan.moves)
    followers: dict[int, list[int]] = defaultdict(list)
    for i, move in enumerate(plan.moves):
        for name in move.depends_on:
            j = index.get(name)
            if j is None:
                found.append(
                    Violation(Rule.DEPENDENCY, move.move_id, f"depends on {name!r}, which is not a move")
                )
                continue
            waits[i] += 1
            followers[j].append(i)
            if plan.moves[j].end_seconds > move.start_seconds + slack:
                detail = f"starts at {move.start_seconds} s, before {name} ends"
                found.append(Violation(Rule.DEPENDENCY, move.move_id, detail))
    ready = [(plan.moves[i].start_seconds, i) for i, count in enumerate(waits) if count == 0]
    heapq.heapify(ready)
    order: list[Move] = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(plan.moves[i])
        for j in followers[i]:
            waits[j] -= 1
            if waits[j] == 0:
                heapq.heappush(ready, (plan.moves[j].start_seconds, j))
    if len(order) < len(plan.moves):
        looped = next(plan.moves[i].move_id for i, count in enumerate(waits) if count > 0)
        found.append(Violation(Rule.DEPENDENCY, looped, "depends on itself through others"))
        return None, found
    return order, found


class _Replay:
    """The cluster at each instant of a plan."""

    def __init__(
        self, problem: PlacementProblem, change: Difference, plan: Plan, limits: Limits, names: Names
    ) -> None:
        self.found: list[Violation] = []
        self._problem = problem
        self._change = change
        self._limits = limits
        self._names = names
        self._slack = _slack(plan)
        self._serving = change.source.holds.astype(bool)
        self._occupied = self._serving.copy()
        self._copies: list[int] = self._serving.sum(axis=0).tolist()
        self._used: list[int] = change.source.used_bytes(problem).tolist()
        self._reading: dict[tuple[int, int], int] = defaultdict(int)
        self._sending: dict[int, int] = defaultdict(int)
        self._receiving: dict[int, int] = defaultdict(int)
        self._running = 0
        self._devices: list[int] = np.bincount(problem.devices[0], minlength=problem.nodes).tolist()

    def run(self, order: list[Move]) -> None:
        events: list[tuple[float, int, int, int]] = []  # time, phase, rank, 0 start or 1 end
        for rank, move in enumerate(order):
            start, end = move.start_seconds, move.end_seconds
            events.append((start, 1, rank, 0))
            if move.kind is MoveKind.COPY:
                end = max(end - self._slack, start)
                events.append((end, 0 if end > start else 1, rank, 1))
        for _, _, rank, ends in sorted(events):
            move = order[rank]
            column = int(self._problem.block_offset[move.block]) + move.expert
            if move.kind is MoveKind.DROP:
                self._drop(move, column)
            elif ends:
                self._end(move, column)
            else:
                self._start(move, column)
        wrong = self._serving != self._change.target.holds.astype(bool)
        if wrong.any():
            n, column = np.argwhere(wrong)[0].tolist()
            has = "holds" if self._serving[n, column] else "does not hold"
            what = self._names.expert(self._problem, column)
            detail = f"{self._names.node(n)} {has} {what} in the end; {int(wrong.sum())} such"
            self._add(Rule.END_STATE, None, detail)

    def _start(self, move: Move, column: int) -> None:
        node, source, limits = move.destination, move.source, self._limits
        if source is None:
            raise RuntimeError("a copy without source passed the checks of its form")
        if self._occupied[node, column]:
            self._add(Rule.HOLDING, move, f"{self._names.node(node)} already holds or receives the expert")
        if source != ORIGIN and not self._serving[source, column]:
            self._add(Rule.SOURCE, move, f"{self._names.node(source)} does not serve the expert")
        self._reading[source, column] += 1
        self._sending[source] += 1
        self._receiving[node] += 1
        self._running += 1
        cap = limits.origin_max_sends if source == ORIGIN else limits.max_sends
        if self._sending[source] > cap:
            sender = self._names.node(source)
            self._add(Rule.CAP, move, f"{sender} sends {self._sending[source]} copies at once, at most {cap}")
        if self._receiving[node] > limits.max_receives:
            detail = (
                f"{self._names.node(node)} receives {self._receiving[node]} copies at once, "
                f"at most {limits.max_receives}"
            )
            self._add(Rule.CAP, move, detail)
        if limits.max_copies is not None and self._running > limits.max_copies:
            detail = f"the cluster has {self._running} copies at once, at most {limits.max_copies}"
            self._add(Rule.CAP, move, detail)
        self._occupied[node, column] = True
        self._used[node] += move.bytes
        over = self._used[node] - int(self._problem.capacity_bytes[node])
        if over > 0:
            self._add(Rule.MEMORY, move, f"{self._names.node(node)} exceeds its memory by {over} bytes")
        elif self._devices[node] != 1 and pack(self._problem, node, self._columns(node)) is None:
            self._add(Rule.MEMORY, move, f"{self._names.node(node)} cannot pack its experts on its devices")

    def _end(self, move: Move, column: int) -> None:
        if move.source is not None:
            self._reading[move.source, column] -= 1
            self._sending[move.source] -= 1
        self._receiving[move.destination] -= 1
        self._running -= 1
        if not self._serving[move.destination, column]:
            self._serving[move.destination, column] = True
            self._copies[column] += 1

    def _drop(self, move: Move, column: int) -> None:
        node = move.destination
        if not self._serving[node, column]:
            self._add(Rule.HOLDING, move, f"{self._names.node(node)} does not serve the expert")
            return
        if self._reading[node, column]:
            self._add(
                Rule.SOURCE, move, f"{self._names.node(node)} drops the expert while it is copied from there"
            )
        self._serving[node, column] = self._occupied[node, column] = False
        self._used[node] -= move.bytes
        self._copies[column] -= 1
        keep = int(self._change.keep[column])
        if self._copies[column] < keep:
            self._add(
                Rule.SERVING, move, f"leaves {self._copies[column]} serving copies, at least {keep} must stay"
            )

    def _columns(self, node: int) -> Int64:
        return np.flatnonzero(self._occupied[node]).astype(np.int64)

    def _add(self, rule: Rule, move: Move | None, detail: str) -> None:
        self.found.append(Violation(rule, None if move is None else move.move_id, detail))


def _estimate_errors(plan: Plan, proved: float) -> list[Violation]:
    found: list[Violation] = []
    slack = _slack(plan)
    copied = sum(move.bytes for move in plan.moves if move.kind is MoveKind.COPY)
    if plan.estimate.bytes != copied:
        found.append(Violation(Rule.ESTIMATE, None, f"bytes: is {plan.estimate.bytes}, expected {copied}"))
    seconds = max((move.end_seconds for move in plan.moves), default=0.0)
    if not abs(plan.estimate.seconds - seconds) <= slack:
        found.append(
            Violation(Rule.ESTIMATE, None, f"seconds: is {plan.estimate.seconds}, expected {seconds}")
        )
    bound = plan.estimate.lower_bound_seconds
    if not bound <= proved + slack:
        detail = f"lower_bound_seconds: is {bound}, only {proved} is proved"
        found.append(Violation(Rule.ESTIMATE, None, detail))
    return found


def _bound_errors(plan: Plan, proved: float) -> list[Violation]:
    """A plan that keeps every rule takes at least the bound; a faster one proves that the bound is wrong."""
    seconds = max((move.end_seconds for move in plan.moves), default=0.0)
    if proved <= seconds + _slack(plan):
        return []
    detail = f"lower_bound_seconds: {proved} is proved, the plan takes {seconds}"
    return [Violation(Rule.ESTIMATE, None, detail)]


def _slack(plan: Plan) -> float:
    """Seconds within which two times of the plan are the same."""
    return TOLERANCE * max((move.end_seconds for move in plan.moves), default=0.0)
