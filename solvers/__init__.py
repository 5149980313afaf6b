"""Placement of Mixture-of-Experts experts on a fleet of nodes, with a certified lower bound.

>>> import numpy as np
>>> from solvers import PlacementProblem, solve
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
>>> result = solve(problem)
>>> result.status, result.objective, result.placement.holds.tolist()
(<SolveStatus.OPTIMAL: 'OPTIMAL'>, 0.0, [[1, 0], [0, 1]])

A name is imported when it is used first: reading a problem does not load the compiled kernels.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from solvers.algorithms import ALGORITHMS, solve
    from solvers.cost.evaluate import evaluate
    from solvers.params import (
        CertifiedParams,
        EplbParams,
        ExactParams,
        GreedyParams,
        MaxconvParams,
        SgdParams,
    )
    from solvers.placement import Placement
    from solvers.problem import Coupling, PlacementProblem, ProblemError
    from solvers.result import SolveResult, SolveStatus
    from solvers.stopping import FirstOf, MaxRuntime

_HOMES = {
    "ALGORITHMS": "solvers.algorithms",
    "CertifiedParams": "solvers.params",
    "Coupling": "solvers.problem",
    "EplbParams": "solvers.params",
    "ExactParams": "solvers.params",
    "FirstOf": "solvers.stopping",
    "GreedyParams": "solvers.params",
    "MaxRuntime": "solvers.stopping",
    "MaxconvParams": "solvers.params",
    "Placement": "solvers.placement",
    "PlacementProblem": "solvers.problem",
    "ProblemError": "solvers.problem",
    "SgdParams": "solvers.params",
    "SolveResult": "solvers.result",
    "SolveStatus": "solvers.result",
    "evaluate": "solvers.cost.evaluate",
    "solve": "solvers.algorithms",
}

__all__ = [
    "ALGORITHMS",
    "CertifiedParams",
    "Coupling",
    "EplbParams",
    "ExactParams",
    "FirstOf",
    "GreedyParams",
    "MaxRuntime",
    "MaxconvParams",
    "Placement",
    "PlacementProblem",
    "ProblemError",
    "SgdParams",
    "SolveResult",
    "SolveStatus",
    "evaluate",
    "solve",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'solvers' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
