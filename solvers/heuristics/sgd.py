"""`sgd`: successive greedy decomposition with dynamic programming (algorithms of SlimCaching, arXiv
2507.06567).

*Paper*: decompose the placement into one subproblem per node, each solved by dynamic programming. *Ours*:
the tables V_b(k), the knapsack over blocks, sweeps as best responses under coverage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solvers.cost.evaluate import total_cost
from solvers.feasible.repair import PROOF_SECONDS, NoPlacement, allowance, make_feasible
from solvers.heuristics.popularity import fill_by_popularity, filled_up
from solvers.params import SgdParams
from solvers.problem import PlacementProblem, UInt8
from solvers.response.best_response import BestResponse
from solvers.stopping import Stopping
from solvers.tolerances import SAME_COST
from solvers.traffic import Traffic


def sgd(
    problem: PlacementProblem,
    traffic: Traffic,
    params: SgdParams,
    generator: np.random.Generator,
    start: UInt8 | None,
    stopping: Stopping,
    report: Callable[[str, UInt8], None],
) -> UInt8:
    """Sweeps with exact, exchange or value-scaled tables, see `sweep`. Raises `NoPlacement`."""
    response = BestResponse(problem, traffic, params)
    return sweep(problem, params, response, generator, start, stopping, report)


def sweep(
    problem: PlacementProblem,
    params: SgdParams,
    response: BestResponse,
    generator: np.random.Generator,
    start: UInt8 | None,
    stopping: Stopping,
    report: Callable[[str, UInt8], None],
) -> UInt8:
    """A feasible placement by sweeps of best responses over the nodes.

    Starts from the empty placement (first sweep without coverage, then made feasible), from `start` and,
    where moving costs, from the placement in force; sweeps each until nothing changes or `rounds` is
    reached; returns the best. Every sweep after the first keeps the placement feasible and lowers the cost
    with every change. Raises `NoPlacement`.
    """
    nodes = problem.nodes
    order = np.arange(nodes)
    if params.order == "capacity":
        order = np.argsort(-problem.capacity_bytes, kind="stable")
    elif params.order == "random":
        order = generator.permutation(nodes)
    traffic = response.traffic
    best: UInt8 | None = None
    best_cost = np.inf
    failure: NoPlacement | None = None
    origins: list[tuple[str, UInt8 | None]] = []
    if start is not None:
        origins.append(("start", start))
    if problem.current is not None and (problem.horizon_seconds is not None or start is None):
        origins.append(("current", problem.current))
    origins.append(("empty", None))
    for name, given in origins:
        if best is not None and stopping():
            break
        response.restart()
        rounds = params.rounds
        if given is None:
            holds = (allowance(problem) == 1).astype(np.uint8)
            for node in order.tolist():
                if not response.respond(node, holds, False, stopping) and stopping():
                    fill_by_popularity(problem, traffic, node, holds)  # no time left to do better
            rounds -= 1
        else:
            holds = given
        try:
            holds = make_feasible(
                problem,
                traffic,
                holds,
                stopping,
                needed=best is None,
                proof_seconds=PROOF_SECONDS if failure is None else 0.0,
            )
        except NoPlacement as reason:  # of this origin, not of the others
            failure = failure or reason
            continue
        response.restart()
        for _ in range(rounds):
            moved = [response.respond(node, holds, True, stopping) for node in order.tolist()]
            if stopping() or not any(moved):
                break
        cost = total_cost(problem, holds)
        if best is None or cost < best_cost * (1.0 - SAME_COST):
            best, best_cost = holds, cost
            report(name, holds)
    if best is None:
        assert failure is not None
        raise failure
    if stopping():  # an interrupted sweep leaves memory empty
        best = filled_up(problem, traffic, best)
    return best
