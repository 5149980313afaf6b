"""`maxconv`: the sweeps of `sgd` with the knapsack over blocks accelerated by (max, +)-convolution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solvers.heuristics.convolution import choose_counts_concave, choose_counts_rounded
from solvers.heuristics.sgd import sweep
from solvers.params import MaxconvParams
from solvers.problem import Float64, Int8, Int32, PlacementProblem, UInt8
from solvers.response.best_response import BestResponse, Subsets
from solvers.stopping import Stopping
from solvers.traffic import Traffic

_FEW_STEPS = 5_000_000  # of the exact recursion, up to which it takes no longer than the tree


class RoundedResponse(BestResponse):
    """Mode `fptas`: the tables of `sgd`, the counts per block within 1 - eps of the exact knapsack; exact
    where memory has few units."""

    def _choose_counts(self, node: int, values: Float64, capacity: int) -> Int32 | None:
        size = self._problem.expert_bytes
        units = min(capacity, int(self._problem.column_bytes.sum())) // max(1, int(np.gcd.reduce(size)))
        if units * len(values) <= _FEW_STEPS:
            return super()._choose_counts(node, values, capacity)
        return choose_counts_rounded(values, self._values_start, size, capacity, self._params.eps)


class SurrogateResponse(BestResponse):
    """Mode `concave`: the saving of a block is replaced by a sum over its experts, so every table is a prefix
    sum of falling numbers, and the knapsack is exact for it. What the sets are really worth still decides
    whether they replace those in force."""

    def __init__(self, problem: PlacementProblem, traffic: Traffic, params: MaxconvParams) -> None:
        super().__init__(problem, traffic, params)
        self._shares = params.surrogate == "shares"
        self._surrogate: dict[tuple[int, int], Float64] = {}

    def _fill_table(
        self,
        key: tuple[int, int],
        state: Int8,
        modular: Float64,
        subsets: Subsets,
        scratch: Float64,
        values: Float64,
        sets: UInt8,
    ) -> None:
        members, size, weight, terms = subsets
        experts = len(modular)
        inside = np.arange(members.shape[1])[None, :] < size[:terms, None]
        worth = modular.copy()
        if self._shares:
            share = np.broadcast_to((weight[:terms] / size[:terms])[:, None], inside.shape)
            worth += np.bincount(members[:terms][inside], weights=share[inside], minlength=experts)
        order = np.lexsort((-worth, -state.astype(np.int64)))  # the forced first, the forbidden last
        forced, allowed = int((state > 0).sum()), int((state >= 0).sum())
        rank = np.empty(experts, np.int64)
        rank[order] = np.arange(experts)
        completed = np.bincount(
            np.where(inside, rank[np.where(inside, members[:terms], 0)], 0).max(axis=1, initial=0),
            weights=weight[:terms],
            minlength=experts,
        )
        real = np.concatenate(([0.0], np.cumsum(modular[order] + completed[:experts])))
        possible = (np.arange(experts + 1) >= forced) & (np.arange(experts + 1) <= allowed)
        values[:] = np.where(possible, real, -np.inf)
        sets[:] = rank[None, :] < np.arange(experts + 1)[:, None]
        surrogate = np.concatenate(([0.0], np.cumsum(worth[order])))
        self._surrogate[key] = np.where(possible, surrogate, -np.inf)

    def _choose_counts(self, node: int, values: Float64, capacity: int) -> Int32 | None:
        surrogate = np.concatenate(
            [self._surrogate[node, b] for b in range(self._problem.blocks)] or [values]
        )
        return choose_counts_concave(
            surrogate, self._values_start, self._problem.expert_bytes, capacity, self._params.eps
        )


def maxconv(
    problem: PlacementProblem,
    traffic: Traffic,
    params: MaxconvParams,
    generator: np.random.Generator,
    start: UInt8 | None,
    stopping: Stopping,
    report: Callable[[str, UInt8], None],
) -> UInt8:
    """A feasible placement by sweeps of best responses as in `sgd`.

    mode "fptas": each response saves within 1 - eps of that of `sgd` with the same tables, at a cost that
    does not depend on the capacity. mode "concave": exact for the modular surrogate of the saving, hence for
    `sum`, where the saving is modular; else without a guarantee. Per node and round: the terms as for `sgd`,
    the knapsack in O(n log n + D C log C), see `choose_counts_concave`. Raises `NoPlacement`.
    """
    response: BestResponse
    if params.mode == "fptas":
        response = RoundedResponse(problem, traffic, params)
    else:
        response = SurrogateResponse(problem, traffic, params)
    return sweep(problem, params, response, generator, start, stopping, report)
