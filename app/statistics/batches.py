"""Traffic of different times as batches, for what is claimed of the traffic behind every sample.

A batch is made of the routes of one time bucket, or of some that follow each other where a layer of a node
has no routes in one. Batches differ in their routes alone: every node and layer makes the same calls in
all, those of the problem, whose rates were judged (`app.statistics.plausibility`). The routes are scaled by
node and layer, never by expert: factors that depend on the routes drawn would make the cost on a batch a
biased estimate of the true one (docs/solvers.md).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.statistics.fleet import Fleet
from app.statistics.reservoir import thinned
from app.statistics.statistics import Statistics
from solvers.problem import PlacementProblem

MAX_ROUTES = 100_000
"""Of a batch, about."""

_LEAST_ROUTES_OF_A_CELL = 16

Bools = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def batch_problems(
    problem: PlacementProblem, fleet: Fleet, buckets: Sequence[Statistics], alive: Bools
) -> tuple[PlacementProblem, ...]:
    """`problem` with the routes of each batch; fewer than two where the routes sampled do not suffice.

    buckets: of each time bucket, in the order of time; alive bool[N]: whose traffic there is. A layer of a
    node that has counts and never any routes has the same single calls in every batch. O(R log R).
    """
    samples = [_sampled(fleet, statistics, alive) for statistics in buckets]
    calls = _calls(problem)
    cells = problem.nodes * problem.blocks
    cell_calls = (
        np.add.reduceat(calls, problem.block_offset[:-1], axis=1).reshape(-1) if cells else np.zeros(0)
    )
    present = np.array([np.bincount(cell, minlength=cells) > 0 for cell, _, _ in samples]).reshape(-1, cells)
    wanted = present.any(axis=0) & (cell_calls > 0)
    parts = _parts(present[:, wanted])
    if len(parts) < 2:
        return ()
    known = np.repeat(wanted.reshape(problem.nodes, -1), problem.experts_per_block, axis=1)
    single = np.argwhere(~known & (calls > 0))
    problems = []
    for first, end in parts:
        cell, experts, weight = (
            np.concatenate(columns) for columns in zip(*_as_wide(samples[first:end]), strict=True)
        )
        some = wanted[cell]
        cell, experts, weight = cell[some], experts[some], weight[some]
        kept, weight = thinned(cell, weight, max(_LEAST_ROUTES_OF_A_CELL, MAX_ROUTES // max(1, wanted.sum())))
        cell, experts = cell[kept], experts[kept]
        made = np.bincount(cell, weight * (experts >= 0).sum(axis=1), minlength=cells)
        rate = weight * np.divide(cell_calls, made, out=np.zeros(cells), where=made > 0)[cell]
        problems.append(
            problem.replace(
                route_node=np.concatenate([cell // problem.blocks, single[:, 0]]).astype(np.int32),
                route_block=np.concatenate(
                    [cell % problem.blocks, problem.column_block[single[:, 1]]]
                ).astype(np.int32),
                route_experts=np.concatenate(
                    [experts, _single_routes(problem, single[:, 1], experts.shape[1])]
                ),
                route_rate=np.concatenate([rate, calls[single[:, 0], single[:, 1]]]),
            )
        )
    return tuple(problems)


def _parts(present: Bools) -> list[tuple[int, int]]:
    """present bool[T, C]: what is seen in each bucket. Runs of buckets, as short as can be, each of which
    sees all C; what is left at the end goes to the last."""
    parts: list[tuple[int, int]] = []
    first, seen = 0, np.zeros(present.shape[1], np.bool_)
    for at, row in enumerate(present):
        seen |= row
        if seen.size and seen.all():
            parts.append((first, at + 1))
            first, seen = at + 1, np.zeros(present.shape[1], np.bool_)
    if parts:
        parts[-1] = (parts[-1][0], len(present))
    return parts


def _sampled(fleet: Fleet, statistics: Statistics, alive: Bools) -> tuple[Int64, Int32, Float64]:
    """cell int64[R]: node * B + block; experts int32[R, K]; weight float64[R]"""
    cells, experts, weights = [np.zeros(0, np.int64)], [np.zeros((0, 1), np.int32)], [np.zeros(0)]
    for row, index, name in _traffic(fleet, alive):
        traffic = statistics.traffic.get(name)
        if traffic is None or traffic.digest != fleet.models[index].digest:
            continue
        some = traffic.route_weight > 0
        first = row * len(fleet.blocks) + int(fleet.model_block_offset[index])
        cells.append(first + traffic.route_block[some].astype(np.int64))
        experts.append(traffic.route_experts[some])
        weights.append(traffic.route_weight[some])
    width = max(part.shape[1] for part in experts)
    return (
        np.concatenate(cells),
        np.concatenate([_wide(part, width) for part in experts]),
        np.concatenate(weights),
    )


def _calls(problem: PlacementProblem) -> Float64:
    """float64[N, E]: calls per second."""
    given = problem.route_experts >= 0
    columns = problem.block_offset[problem.route_block][:, None] + problem.route_experts
    cells = problem.route_node[:, None].astype(np.int64) * problem.experts + columns
    rates = np.broadcast_to(problem.route_rate[:, None], given.shape)
    calls = np.bincount(cells[given], rates[given], minlength=problem.nodes * problem.experts)
    return calls.astype(np.float64).reshape(problem.nodes, problem.experts)


def _traffic(fleet: Fleet, alive: Bools) -> list[tuple[int, int, tuple[str, str]]]:
    return [
        (row, index, (fleet.node_ids[row], model_id))
        for row in np.flatnonzero(alive).tolist()
        for index, model_id in enumerate(fleet.model_ids)
    ]


def _single_routes(problem: PlacementProblem, columns: Int64, width: int) -> Int32:
    routes = np.full((len(columns), width), -1, np.int32)
    routes[:, 0] = columns - problem.block_offset[problem.column_block[columns]]
    return routes


def _as_wide(
    samples: Sequence[tuple[Int64, Int32, Float64]],
) -> list[tuple[Int64, Int32, Float64]]:
    width = max(experts.shape[1] for _, experts, _ in samples)
    return [(cell, _wide(experts, width), weight) for cell, experts, weight in samples]


def _wide(experts: Int32, width: int) -> Int32:
    wide = np.full((len(experts), width), -1, np.int32)
    wide[:, : experts.shape[1]] = experts
    return wide
