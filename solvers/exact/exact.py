"""`exact`: the mixed integer programme through HiGHS, for instances small enough; a yardstick."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from solvers.cost.evaluate import total_cost
from solvers.exact.programme import TooLarge, programme
from solvers.feasible.violations import shortfalls
from solvers.heuristics.sgd import sgd
from solvers.highs import answer_within
from solvers.params import ExactParams, SgdParams
from solvers.problem import PlacementProblem, UInt8
from solvers.stopping import Stopping
from solvers.tolerances import EXACT_GAP, EXACT_MARGIN
from solvers.traffic import Traffic

_SCALE = 1e3  # of the objective given to HiGHS, so that its absolute gap of 1e-6 is a relative one of 1e-9
_GRACE_SECONDS = 5.0  # for HiGHS to notice its time limit
_OPTIMAL, _LIMIT = 0, 1  # of scipy's statuses


def exact(
    problem: PlacementProblem,
    traffic: Traffic,
    params: ExactParams,
    generator: np.random.Generator,
    start: UInt8 | None,
    seconds: float | None,
    interrupted: Stopping,
    stopping: Stopping,
    report: Callable[[str, UInt8], None],
    certify: Callable[[float], None],
) -> UInt8:
    """The better of the placement of `sgd` (from `start` where given) and of what HiGHS finds in `seconds`.

    Optimal, with a bound that proves it, where HiGHS closes the programme; else the best found, with HiGHS's
    bound as far as it came. Its bound counts less 5e-7 of itself, for HiGHS works to tolerances. A programme
    of more than `variable_limit` variables isn't tried, and one where no placement serves all traffic has no
    bound. HiGHS cannot be interrupted: where `interrupted` says so, its work is left behind, in a thread that
    ends with its time limit. Exponential time. Raises `NoPlacement`.
    """
    began = time.monotonic()
    found = sgd(problem, traffic, SgdParams(), generator, start, stopping, report)
    if stopping():
        return found
    if problem.experts == 0:
        certify(0.0)
        return found
    try:
        model = programme(problem, traffic, params.variable_limit)
    except TooLarge:
        return found
    cost = total_cost(problem, found)
    scale = cost / _SCALE if 0 < cost < math.inf else 1.0
    limit = params.seconds
    if seconds is not None:
        limit = min(limit, seconds - (time.monotonic() - began))
    if limit <= 0:
        return found
    report("branch and bound", found)
    answer = answer_within(
        lambda: model.minimise(scale, limit, EXACT_GAP), limit + _GRACE_SECONDS, interrupted
    )
    if answer is None:
        return found
    bound = answer.get("mip_dual_bound")
    if answer.status in (_OPTIMAL, _LIMIT) and bound is not None and math.isfinite(bound):
        value = model.constant + bound * scale
        certify(max(0.0, value - EXACT_MARGIN * abs(value)))
    if answer.x is not None:
        holds: UInt8 = np.rint(answer.x[: found.size]).astype(np.uint8).reshape(found.shape)
        if not shortfalls(problem, holds) and total_cost(problem, holds) < cost:
            report("optimum" if answer.status == _OPTIMAL else "incumbent", holds)
            return holds
    return found
