"""Equal slots: every node holds the same number of experts of every block.

Engines whose expert tables are rectangular (EPLB, SGLang, TensorRT-LLM) can take no other placement. With
the slots given, blocks no longer compete for memory, so the problem falls apart into one per block, and the
blocks' placements, costs and lower bounds add up to the whole's without loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from solvers.algorithms import solve
from solvers.cost.evaluate import total_cost
from solvers.feasible.repair import allowance
from solvers.feasible.violations import shortfalls
from solvers.params import DEFAULT_ALGORITHM, BoundParams
from solvers.placement import Placement
from solvers.problem import PlacementProblem, ProblemError, UInt8
from solvers.result import Progress, SolveResult, SolveStatus, bound_of, gap_ratio
from solvers.stopping import Stopping, never
from solvers.tolerances import OPTIMALITY_TOLERANCE


def most_equal_slots(problem: PlacementProblem) -> int:
    """The most slots per node and block for which every node that is not drained has the memory. O(N + B)."""
    used = problem.experts_per_block > 0
    bytes_per_slot = int(problem.expert_bytes[used].sum())
    open_nodes = _open_nodes(problem)
    if bytes_per_slot == 0 or not open_nodes.any():
        return 0
    memory = int(problem.capacity_bytes[open_nodes].min()) // bytes_per_slot
    return min(memory, int(problem.experts_per_block[used].min()))


def solve_equal_slots(
    problem: PlacementProblem,
    slots: int,
    algorithm: str = DEFAULT_ALGORITHM,
    *,
    params: Mapping[str, Any] | BoundParams | None = None,
    seed: int = 0,
    time_limit_seconds: float | None = None,
    progress: Callable[[Progress], None] | None = None,
    stopping: Stopping = never,
) -> SolveResult:
    """As `solve`, with exactly `slots` experts of every block on every node; drained nodes hold nothing.

    Each block is solved by itself with room for `slots` experts on every node, and slots left empty, which
    never raise the latency, are filled: with what the node holds now, then with what its tokens call most.
    The sum of the blocks' lower bounds bounds every placement with at most so many slots, so also those with
    exactly so many. `time_limit_seconds` is shared out among the blocks still to do. Raises as `solve`, and
    `ProblemError` where `slots` is below 1 or above a block's experts. A result without a placement names
    node or block.
    """
    used = np.flatnonzero(problem.experts_per_block > 0).tolist()
    fewest = min((int(problem.experts_per_block[b]) for b in used), default=0)
    if not 1 <= slots <= fewest:
        raise ProblemError(f"slots: are {slots}, expected 1..{fewest}, the experts of the smallest block")
    began = time.monotonic()
    shortfall = _impossibility(problem, slots)
    lacking = SolveStatus.INFEASIBLE  # where there is a shortfall
    holds = np.zeros((problem.nodes, problem.experts), np.uint8)
    bounds: list[float | None] = []
    statuses: list[SolveStatus] = []
    known_cost = 0.0
    for turn, block in enumerate(used if shortfall is None else []):
        part = _block_alone(problem, block, slots)
        left = None
        if time_limit_seconds is not None:
            left = max(0.0, time_limit_seconds - (time.monotonic() - began)) / (len(used) - turn)
        found = solve(
            part,
            algorithm,
            params=params,
            seed=seed,
            time_limit_seconds=left,
            stopping=stopping,
        )
        if found.placement is None:
            shortfall = f"block {block}, {slots} slots per node: {found.shortfall}"
            lacking = found.status
            break
        filled = found.placement.holds.copy()
        shortfall = _fill(part, block, slots, filled)
        if shortfall is not None:
            break
        columns = slice(int(problem.block_offset[block]), int(problem.block_offset[block + 1]))
        holds[:, columns] = filled
        bounds.append(found.lower_bound)
        statuses.append(found.status)
        known_cost += total_cost(part, filled)
        if progress is not None:
            runtime = time.monotonic() - began
            progress(Progress(algorithm, f"block {turn + 1} of {len(used)}", known_cost, None, runtime))
    if shortfall is None:
        broken = shortfalls(problem, holds)
        shortfall = f"{slots} slots per node and block: {broken[0]}" if broken else None
    runtime = time.monotonic() - began
    if shortfall is not None:
        return SolveResult(None, lacking, algorithm, None, None, None, runtime, shortfall)
    objective = total_cost(problem, holds)
    bound = _sum_of_bounds(bounds, objective)
    gap = gap_ratio(objective, bound)
    if gap is not None and gap <= OPTIMALITY_TOLERANCE:
        status = SolveStatus.OPTIMAL
    else:
        cut = SolveStatus.TIME_LIMIT in statuses
        status = SolveStatus.TIME_LIMIT if cut else SolveStatus.FEASIBLE
    return SolveResult(Placement(holds), status, algorithm, objective, bound, gap, runtime)


def _open_nodes(problem: PlacementProblem) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    if problem.drained is None:
        return np.ones(problem.nodes, np.bool_)
    return np.equal(problem.drained, 0)


def _impossibility(problem: PlacementProblem, slots: int) -> str | None:
    """Memory and replicas, by counting."""
    used = problem.experts_per_block > 0
    needed = slots * int(problem.expert_bytes[used].sum())
    open_nodes = _open_nodes(problem)
    for node in np.flatnonzero(open_nodes).tolist():
        if needed > problem.capacity_bytes[node]:
            return (
                f"node {node}: {slots} slots in every block need {needed} bytes, it holds "
                f"{problem.capacity_bytes[node]}: short by {needed - int(problem.capacity_bytes[node])} bytes"
            )
    total = slots * int(open_nodes.sum())
    for block in np.flatnonzero(used).tolist():
        replicas = problem.min_replicas * int(problem.experts_per_block[block])
        if replicas > total:
            return (
                f"block {block}: {problem.min_replicas} replicas of each of its "
                f"{problem.experts_per_block[block]} experts need {replicas} slots, the nodes have {total}: "
                f"short by {replicas - total} slots"
            )
    return None


def _block_alone(problem: PlacementProblem, block: int, slots: int) -> PlacementProblem:
    """The problem with the experts and routes of one block, and room for `slots` of them on every node. The
    other blocks stay as empty ones, so that what is said of the block names it by its number."""
    columns = slice(int(problem.block_offset[block]), int(problem.block_offset[block + 1]))
    experts = np.zeros(problem.blocks, np.int64)
    experts[block] = problem.experts_per_block[block]
    routes = problem.route_block == block
    return problem.replace(
        experts_per_block=experts,
        capacity_bytes=np.full(problem.nodes, slots * int(problem.expert_bytes[block]), np.int64),
        device_node=None,
        device_capacity_bytes=None,
        route_node=problem.route_node[routes],
        route_block=problem.route_block[routes],
        route_experts=problem.route_experts[routes],
        route_rate=problem.route_rate[routes],
        current=None if problem.current is None else problem.current[:, columns],
        pins=None if problem.pins is None else problem.pins[:, columns],
    )


def _fill(problem: PlacementProblem, block: int, slots: int, holds: UInt8) -> str | None:
    """Fills the empty slots of a problem of one block; the shortfall where pins leave too few experts."""
    rate = np.zeros((problem.nodes, problem.experts))
    node = np.broadcast_to(problem.route_node[:, None], problem.route_experts.shape)
    real = problem.route_experts >= 0
    per_expert = np.broadcast_to(problem.route_rate[:, None], problem.route_experts.shape)
    np.add.at(rate, (node[real], problem.route_experts[real]), per_expert[real])
    allowed = allowance(problem)
    for n in np.flatnonzero(_open_nodes(problem)).tolist():
        lacking = slots - int(holds[n].sum())
        if lacking <= 0:
            continue
        free = np.flatnonzero((holds[n] == 0) & (allowed[n] >= 0))
        if len(free) < lacking:
            may = int((allowed[n] >= 0).sum())
            return f"block {block}: node {n} may hold {may} of its experts by the pins, expected {slots}"
        held_now = np.zeros(problem.experts) if problem.current is None else problem.current[n]
        order = np.lexsort((free, -rate[n, free], -held_now[free].astype(np.int64)))
        holds[n, free[order[:lacking]]] = 1
    return None


def _sum_of_bounds(bounds: list[float | None], objective: float) -> float | None:
    """Costs are never negative, so a block without a bound adds 0; None where no block has one."""
    if all(bound is None for bound in bounds):
        return None
    total = sum(max(0.0, bound) for bound in bounds if bound is not None)
    return bound_of(total, objective)
