"""The Python API of moeplace: compute placements, plan the moves that lead to them, and check both.

>>> import numpy as np
>>> from moeplace import PlacementProblem, plan, solve, verify
>>> problem = PlacementProblem(
...     expert_bytes=np.array([100]),
...     experts_per_block=np.array([2]),
...     capacity_bytes=np.array([100, 100]),
...     latency_seconds=np.array([[0.0, 0.01], [0.01, 0.0]]),
...     origin_latency_seconds=np.array([0.1, 0.1]),
...     route_node=np.array([0, 1], np.int32),
...     route_block=np.array([0, 0], np.int32),
...     route_experts=np.array([[0], [1]], np.int32),
...     route_rate=np.array([3.0, 2.0]),
... )
>>> target = solve(problem).placement.holds
>>> nothing = np.zeros_like(target)
>>> moves = plan(problem, nothing, target)
>>> len(moves.moves), verify(problem, nothing, target, moves)
(2, ())

The names come from two libraries, `solvers` and `migrations`, which hold more. A name is imported when it is
used first. A running service is used over HTTP; nodes and engines use `moeplace_agent`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migrations.model import Limits, Plan, PlanError, load_plan, save_plan
    from migrations.planner import plan
    from migrations.verify import Violation, verify
    from solvers import (
        CertifiedParams,
        Coupling,
        EplbParams,
        ExactParams,
        GreedyParams,
        MaxconvParams,
        Placement,
        PlacementProblem,
        ProblemError,
        SgdParams,
        SolveResult,
        SolveStatus,
        evaluate,
        solve,
    )
    from solvers.io.files import load_placement, load_problem, save_placement, save_problem

_HOMES = {
    "CertifiedParams": "solvers",
    "Coupling": "solvers",
    "EplbParams": "solvers",
    "ExactParams": "solvers",
    "GreedyParams": "solvers",
    "Limits": "migrations.model",
    "MaxconvParams": "solvers",
    "Placement": "solvers",
    "PlacementProblem": "solvers",
    "Plan": "migrations.model",
    "PlanError": "migrations.model",
    "ProblemError": "solvers",
    "SgdParams": "solvers",
    "SolveResult": "solvers",
    "SolveStatus": "solvers",
    "Violation": "migrations.verify",
    "evaluate": "solvers",
    "load_placement": "solvers.io.files",
    "load_plan": "migrations.model",
    "load_problem": "solvers.io.files",
    "plan": "migrations.planner",
    "save_placement": "solvers.io.files",
    "save_plan": "migrations.model",
    "save_problem": "solvers.io.files",
    "solve": "solvers",
    "verify": "migrations.verify",
}

__all__ = [
    "CertifiedParams",
    "Coupling",
    "EplbParams",
    "ExactParams",
    "GreedyParams",
    "Limits",
    "MaxconvParams",
    "Placement",
    "PlacementProblem",
    "Plan",
    "PlanError",
    "ProblemError",
    "SgdParams",
    "SolveResult",
    "SolveStatus",
    "Violation",
    "evaluate",
    "load_placement",
    "load_plan",
    "load_problem",
    "plan",
    "save_placement",
    "save_plan",
    "save_problem",
    "solve",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'moeplace' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
