"""Every placement made feasible: pins, drained nodes, memory and replicas."""

from __future__ import annotations

import numpy as np
from scipy import optimize, sparse

from solvers.feasibility import expert_name, shortfalls
from solvers.kernels import coverage as kernel
from solvers.packing import fits, packable_bytes, packs_within_bytes
from solvers.problem import Float64, Int8, Int64, PlacementProblem, UInt8
from solvers.traffic import Traffic

PROOF_SECONDS = 20.0  # the time the integer programme may take


class Uncoverable(Exception):
    """No feasible placement; the shortfall in words."""


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
        return f"node {node} needs {pinned[node]} bytes for its pinned experts, it holds {capacity[node]}"
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
        return (
            f"{problem.min_replicas} replicas of every expert need {needed} bytes, "
            f"the nodes hold {available}: short by {needed - available} bytes"
        )
    return None


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


def make_feasible(problem: PlacementProblem, traffic: Traffic, holds: UInt8) -> UInt8:
    """A feasible placement near `holds` uint8[N, E], which is not modified.

    Pins and drained nodes first; then the least useful experts leave nodes that are too full; then experts
    short of replicas take free memory, or that of replicas to spare, where that costs least. Where this gets
    stuck, an integer programme over kinds of experts finds a covering placement and the useful rest is added
    again. Raises `Uncoverable` where no placement is feasible. O(N E log E), and per expert that is short of
    replicas O(N^2) and what its evictions take; the programme aside.
    """
    reason = impossibility(problem)
    if reason is not None:
        raise Uncoverable(reason)
    if not shortfalls(problem, holds):
        return holds.copy()
    allowed = allowance(problem)
    wished = np.where(allowed == 0, holds, allowed == 1).astype(np.uint8)
    benefit, loss = replica_worth(problem, traffic, wished, problem.min_replicas)
    repaired = _repair(problem, allowed, wished, benefit, loss)
    if repaired is not None:
        return repaired
    covering = _covering(problem, allowed)
    benefit, _ = replica_worth(problem, traffic, wished, problem.nodes + 1)
    _fill(problem, allowed, wished, benefit, covering)
    return covering


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


def _covering(problem: PlacementProblem, allowed: Int8) -> UInt8:
    """A feasible placement with few replicas, by the programme of `Programme`. Exact: raises `Uncoverable`
    where the programme has no solution."""
    programme = Programme(problem, allowed)
    kinds_number, devices, nodes = len(programme.count), programme.devices, problem.nodes
    kind_of, count, at_node = programme.kind_of, programme.count, programme.at_node
    wanted = (count * problem.min_replicas).astype(float)
    answer = optimize.milp(
        np.ones(kinds_number * devices),
        integrality=np.ones(kinds_number * devices, np.int64),
        bounds=programme.bounds,
        constraints=[
            *programme.constraints(),
            optimize.LinearConstraint(sparse.csr_array(programme.replicas), wanted, np.inf),
        ],
        options={"time_limit": PROOF_SECONDS},
    )
    if answer.x is None:
        proof = "no such assignment exists" if answer.status == 2 else "none was found in the time given"
        raise Uncoverable(
            f"the devices cannot take {problem.min_replicas} replicas of every expert "
            f"with the pins given: {proof}"
        )
    amount = np.rint(answer.x).astype(np.int64).reshape(kinds_number, devices)
    held = np.zeros((nodes, problem.experts), np.uint8)
    for kind in range(kinds_number):
        members = np.flatnonzero(kind_of == kind)
        turn = 0
        for n, taken in enumerate((at_node @ amount[kind]).astype(np.int64).tolist()):
            # going round the members gives each its share of the replicas, never two on one node
            held[n, members[(turn + np.arange(taken)) % len(members)]] = 1
            turn += taken
    wrong = shortfalls(problem, held)
    if wrong:
        raise Uncoverable(f"no covering placement was found: {wrong[0]}")
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
