"""Every placement made feasible: pins, drained nodes, memory and replicas."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from scipy import optimize, sparse

from solvers.feasible.packing import fits, pack, packable_bytes, packs_within_bytes
from solvers.feasible.violations import expert_name, shortfalls
from solvers.highs import answer_within
from solvers.kernels import coverage as kernel
from solvers.problem import Float64, Int8, Int64, PlacementProblem, UInt8
from solvers.stopping import Stopping, never, seconds_left
from solvers.traffic import Traffic

PROOF_SECONDS = 20.0  # the time the integer programme may take
_FIRST_SECONDS = 0.5  # the same at least, where no placement is known yet, however little time is left
_GRACE_SECONDS = 0.2  # for HiGHS to notice its time limit
_INFEASIBLE = 2  # of scipy's statuses: proved


class NoPlacement(Exception):
    """A search ends without a feasible placement; the reason in words."""


class Infeasible(NoPlacement):
    """Proved: no placement is feasible. The shortfall in words."""


class NotFound(NoPlacement):
    """None was found within a limit. One may exist."""


def allowance(problem: PlacementProblem) -> Int8:
    """int8[N, E]: 1 must be held, -1 must not (by pin or because the node is drained), 0 free."""
    allowed = np.zeros((problem.nodes, problem.experts), np.int8)
    if problem.pins is not None:
        allowed[:] = problem.pins
    if problem.drained is not None:
        allowed[problem.drained == 1] = -1
    return allowed


def allowed_at(problem: PlacementProblem, node: int) -> Int8:
    """int8[E]: the row of a node in `allowance`. O(E)."""
    if problem.drained is not None and problem.drained[node]:
        return np.full(problem.experts, -1, np.int8)
    return np.zeros(problem.experts, np.int8) if problem.pins is None else problem.pins[node]


def finite_fallback(problem: PlacementProblem) -> Float64:
    """float64[N]: what a call costs while nobody holds its expert: the origin's latency; without one, the
    worst latency to any node, or 1000 times the worst of all where some node cannot be reached."""
    latency = problem.latency_seconds
    finite = latency[np.isfinite(latency)]
    worst = float(finite.max()) or 1.0
    row = np.where(np.isfinite(latency).all(axis=1), latency.max(axis=1), 1000.0 * worst)
    origin = problem.origin_latency_seconds
    return np.where(np.isfinite(origin), origin, row)


def impossibility(problem: PlacementProblem) -> str | None:
    """Why no placement can be feasible, by counting; None where counting does not tell. O(N E)."""
    allowed = allowance(problem)
    capacity = packable_bytes(problem)
    if problem.pins is not None and problem.drained is not None:
        clash = np.argwhere((problem.pins == 1) & (problem.drained == 1)[:, None])
        if len(clash):
            node, column = (int(i) for i in clash[0])
            return f"{expert_name(problem, column)} is pinned to node {node}, which is drained"
    pinned = (allowed == 1).astype(np.int64) @ problem.column_bytes
    for node in np.flatnonzero(pinned > capacity).tolist():
        has = int(problem.capacity_bytes[node])
        whole = "" if has == capacity[node] else f", of which whole experts take {capacity[node]} at most"
        return f"node {node} needs {pinned[node]} bytes for its pinned experts, it has {has}{whole}"
    eligible = ((allowed >= 0) & (problem.column_bytes[None, :] <= capacity[:, None])).sum(axis=0)
    short = np.flatnonzero(eligible < problem.min_replicas)
    if len(short):
        column = int(short[0])
        return (
            f"{expert_name(problem, column)} needs {problem.min_replicas} replicas, "
            f"only {int(eligible[column])} nodes may hold it and have the memory"
        )
    pins = (allowed == 1).sum(axis=0)
    needed = int((np.maximum(pins, problem.min_replicas) * problem.column_bytes).sum())
    available = int(capacity.sum())
    if needed > available:
        has, lacking = _usable_bytes(problem), _least_missing_bytes(problem, needed - available)
        whole = "" if has == available else f", of which whole experts take {available} at most"
        return (
            f"{problem.min_replicas} replicas of every expert need {needed} bytes, "
            f"the nodes have {has}{whole}: short by {lacking} byte{'' if lacking == 1 else 's'}"
        )
    return None


def _usable_bytes(problem: PlacementProblem) -> int:
    usable = problem.capacity_bytes
    if problem.drained is not None:
        usable = np.where(problem.drained == 1, 0, usable)
    return int(usable.sum())


def _least_missing_bytes(problem: PlacementProblem, missing: int) -> int:
    """The least bytes which, added to devices, let nodes hold `missing` bytes more of experts: where all have
    one size, what the devices' memory beyond whole experts lacks of one more comes first."""
    sizes = np.unique(problem.column_bytes)
    if len(sizes) != 1:
        return missing
    size = int(sizes[0])
    device_node, capacity = problem.devices
    left = capacity % size
    if problem.drained is not None:
        left = left[problem.drained[device_node] == 0]
    largest = np.sort(left)[::-1][: missing // size]
    return missing - int(largest.sum())


def replica_worth(
    problem: PlacementProblem, traffic: Traffic, holds: UInt8, wanted: int
) -> tuple[Float64, Float64]:
    """Two float64[N, E], both by single expert calls: seconds per second that a replica at n saves all nodes
    while nobody holds the expert, of experts with fewer than `wanted` replicas, and what dropping a replica
    held by n costs them given `holds`; 0 elsewhere. O(N) per replica, O(N^2) per expert short of `wanted`."""
    benefit = np.empty((problem.experts, problem.nodes))
    loss = np.empty((problem.experts, problem.nodes))
    kernel.replica_worth(
        np.ascontiguousarray(holds.T),
        problem.latency_seconds,
        finite_fallback(problem),
        np.ascontiguousarray(traffic.activity.T),
        wanted,
        benefit,
        loss,
    )
    return np.ascontiguousarray(benefit.T), np.ascontiguousarray(loss.T)


def make_feasible(
    problem: PlacementProblem,
    traffic: Traffic,
    holds: UInt8,
    stopping: Stopping = never,
    *,
    needed: bool = True,
    proof_seconds: float = PROOF_SECONDS,
) -> UInt8:
    """A feasible placement near `holds` uint8[N, E], which is not modified.

    Pins and drained nodes first; then the least useful experts leave nodes that are too full; then experts
    short of replicas take free memory, or that of replicas to spare, where that costs least. Where this gets
    stuck, a covering placement is made anew, to which the useful rest is added again: by best-fit decreasing
    over the devices, and where that fails too by an integer programme over kinds of experts.

    The programme ends with `stopping` and after `proof_seconds`. `needed`: no other placement is known, so
    all but the programme is done even where it takes longer than `stopping` allows, and the programme has
    half a second at least. Otherwise `stopping` ends everything.

    Raises `Infeasible` where it is proved that no placement is feasible, `NotFound` where a limit came first.
    O(N E log E), and per expert that is short of replicas O(N^2) and what its evictions take; best-fit
    O(E min_replicas D); the programme aside.
    """
    reason = impossibility(problem)
    if reason is not None:
        raise Infeasible(reason)
    if not shortfalls(problem, holds):
        return holds.copy()
    interrupted = never if needed else stopping
    allowed = allowance(problem)
    wished = np.where(allowed == 0, holds, allowed == 1).astype(np.uint8)
    _go_on(interrupted)
    benefit, loss = replica_worth(problem, traffic, wished, problem.min_replicas)
    _go_on(interrupted)
    repaired = _repair(problem, allowed, wished, benefit, loss)
    if repaired is not None:
        return repaired
    _go_on(interrupted)
    covering = _best_fit(problem, allowed)
    if covering is None:
        seconds = min(proof_seconds, max(_FIRST_SECONDS if needed else 0.0, seconds_left(stopping)))
        covering = _covering(problem, allowed, seconds, stopping if seconds > _FIRST_SECONDS else interrupted)
    benefit, _ = replica_worth(problem, traffic, wished, problem.nodes + 1)
    _fill(problem, allowed, wished, benefit, covering)
    return covering


def _go_on(interrupted: Stopping) -> None:
    if interrupted():
        raise NotFound("the search was stopped while a placement was made feasible")


def _repair(
    problem: PlacementProblem, allowed: Int8, wished: UInt8, benefit: Float64, loss: Float64
) -> UInt8 | None:
    held = wished.copy()
    size = problem.column_bytes
    free = packable_bytes(problem) - held.astype(np.int64) @ size
    worth = loss / size
    order_of_leaving = np.argsort(worth, axis=1, kind="stable")
    for n in np.flatnonzero(free < 0).tolist():
        for e in order_of_leaving[n].tolist():
            if free[n] >= 0:
                break
            if held[n, e] and allowed[n, e] == 0:
                held[n, e] = 0
                free[n] += size[e]
    replicas = held.sum(axis=0, dtype=np.int64)
    evictable = np.where(np.take_along_axis(held, order_of_leaving, axis=1) == 1, order_of_leaving, -1)
    # the held ones first, in their order
    evictable = np.take_along_axis(evictable, np.argsort(evictable < 0, axis=1, kind="stable"), axis=1)
    order = np.lexsort((-benefit.max(axis=0, initial=0.0), -size)).astype(np.int64)
    covered = kernel.cover(
        held,
        allowed,
        problem.min_replicas,
        size,
        order,
        np.ascontiguousarray(evictable, dtype=np.int64),
        benefit,
        loss,
        free,
        replicas,
    )
    return held if covered and (packs_within_bytes(problem) or fits(problem, held)) else None


class Programme:
    """Whom experts may be given to, as an integer programme over (kind of expert, device), where a kind is
    the experts of one size with the same pins. A variable is how many experts of the kind the device holds.

    kind_of int64[E]; size and count int64[kinds]: bytes of one expert, and experts, of each kind
    replicas: the matrix that makes of the variables the copies of each kind
    at_node: the matrix that makes of a row per device a row per node
    """

    def __init__(self, problem: PlacementProblem, allowed: Int8) -> None:
        device_node, device_capacity = problem.devices
        features = np.vstack((problem.column_bytes[None, :], allowed.astype(np.int64)))
        kinds, kind_of = np.unique(features, axis=1, return_inverse=True)
        self.kind_of: Int64 = kind_of.reshape(problem.experts)
        self.count: Int64 = np.bincount(self.kind_of, minlength=kinds.shape[1]).astype(np.int64)
        self.size: Int64 = kinds[0]
        self.devices = len(device_node)
        rule, number = kinds[1:], kinds.shape[1]
        unit = int(np.gcd.reduce(self.size)) if number else 1
        place = (np.ones(self.devices), (device_node, np.arange(self.devices)))
        self.at_node = sparse.csr_array(place, shape=(problem.nodes, self.devices))
        self.replicas = sparse.kron(sparse.eye_array(number), np.ones((1, self.devices)))
        self.bounds = optimize.Bounds(0, np.repeat(self.count, self.devices).astype(float))
        self._per_node = sparse.kron(sparse.eye_array(number), self.at_node)
        units = (self.size // unit)[None, :].astype(float)
        self._memory = sparse.kron(units, sparse.eye_array(self.devices))
        self._least = np.where(rule.T == 1, self.count[:, None], 0).reshape(-1).astype(float)
        self._most = np.where(rule.T == -1, 0, self.count[:, None]).reshape(-1).astype(float)
        self._room = (device_capacity // unit).astype(float)

    def constraints(self, more: int = 0) -> list[optimize.LinearConstraint]:
        """No node holds an expert twice, pins are kept, no device is above its memory. `more`: variables that
        follow and take part in none of this."""
        rows = self._per_node.shape[0], self._memory.shape[0]
        per_node, memory = (
            sparse.csr_array(sparse.hstack([matrix, sparse.csr_array((count, more), dtype=np.float64)]))
            for matrix, count in zip((self._per_node, self._memory), rows, strict=True)
        )
        return [
            optimize.LinearConstraint(per_node, self._least, self._most),
            optimize.LinearConstraint(memory, -np.inf, self._room),
        ]


def _best_fit(problem: PlacementProblem, allowed: Int8) -> UInt8 | None:
    """A covering placement by best-fit decreasing: pinned experts first, then every expert in order of its
    size, each replica on the device that it leaves least free; None where one finds no device.
    O(E min_replicas D)."""
    device_node, capacity = problem.devices
    free = capacity.copy()
    held = (allowed == 1).astype(np.uint8)
    for node in np.flatnonzero(held.any(axis=1)).tolist():
        columns = np.flatnonzero(held[node]).astype(np.int64)
        devices = pack(problem, node, columns)
        if devices is None:
            return None
        np.subtract.at(free, devices, problem.column_bytes[columns])
    may = np.ascontiguousarray((allowed == 0)[device_node].T)  # [E, D]
    for e in np.lexsort((may.sum(axis=1), -problem.column_bytes)).tolist():
        size = int(problem.column_bytes[e])
        open_devices = may[e]
        for _ in range(problem.min_replicas - int(held[:, e].sum())):
            possible = np.flatnonzero(open_devices & (free >= size))
            if len(possible) == 0:
                return None
            device = int(possible[np.argmin(free[possible])])
            free[device] -= size
            held[device_node[device], e] = 1
            open_devices &= device_node != device_node[device]
    return None if shortfalls(problem, held) else held


def _covering(problem: PlacementProblem, allowed: Int8, seconds: float, stopping: Stopping) -> UInt8:
    """A feasible placement with few replicas, by the programme of `Programme`, in so many seconds. Raises
    `Infeasible` where the programme is proved to have no solution, `NotFound` where a limit comes first."""
    end = time.monotonic() + seconds
    programme = Programme(problem, allowed)
    kinds_number, devices = len(programme.count), programme.devices
    wanted = (programme.count * problem.min_replicas).astype(float)
    constraints = [
        *programme.constraints(),
        optimize.LinearConstraint(sparse.csr_array(programme.replicas), wanted, np.inf),
    ]
    generator = np.random.default_rng(0)
    cost = np.ones(kinds_number * devices)
    what = f"{problem.min_replicas} replicas of every expert"
    if problem.pins is not None:
        what += " with the pins given"
    while (left := end - time.monotonic()) > 0.0 and not stopping():
        answer = answer_within(
            partial(
                optimize.milp,
                cost,
                integrality=np.ones(len(cost), np.int64),
                bounds=programme.bounds,
                constraints=constraints,
                options={"time_limit": left},
            ),
            left + _GRACE_SECONDS,
            stopping,
        )
        if answer is None:
            break
        if answer.status == _INFEASIBLE:
            raise Infeasible(f"the devices cannot take {what}: no such assignment exists")
        if answer.x is not None:
            amount = np.rint(answer.x).astype(np.int64).reshape(kinds_number, devices)
            held = _dealt_out(problem, programme, amount)
            if not shortfalls(problem, held):
                return held
        # HiGHS works to tolerances, which rounding can turn into a byte too many: another vertex may do
        cost = 1.0 + generator.random(len(cost))
    raise NotFound(
        f"no way to give the devices {what} was found in the time given, nor is it proved that none exists"
    )


def _dealt_out(problem: PlacementProblem, programme: Programme, amount: Int64) -> UInt8:
    """The placement uint8[N, E] in which devices hold so many experts of each kind, int64[kinds, D]."""
    held = np.zeros((problem.nodes, problem.experts), np.uint8)
    for kind in range(len(programme.count)):
        members = np.flatnonzero(programme.kind_of == kind)
        turn = 0
        for n, taken in enumerate((programme.at_node @ amount[kind]).astype(np.int64).tolist()):
            # going round the members gives each its share of the replicas, never two on one node
            held[n, members[(turn + np.arange(taken)) % len(members)]] = 1
            turn += taken
    return held


def _fill(problem: PlacementProblem, allowed: Int8, wished: UInt8, benefit: Float64, held: UInt8) -> None:
    """Adds to `held` what was wished and still fits, the most useful per byte first."""
    if not packs_within_bytes(problem):
        return
    size = problem.column_bytes
    free: Int64 = packable_bytes(problem) - held.astype(np.int64) @ size
    for n in range(problem.nodes):
        for e in np.argsort(-benefit[n] / size, kind="stable").tolist():
            if wished[n, e] and not held[n, e] and allowed[n, e] == 0 and size[e] <= free[n]:
                held[n, e] = 1
                free[n] -= size[e]
