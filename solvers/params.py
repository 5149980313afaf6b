"""Parameters of the algorithms, one range-checked dataclass each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

DEFAULT_ALGORITHM = "certified"
"""Of `solvers.algorithms`, which not everyone who names it wants to load."""


class ParamsError(ValueError):
    """A parameter that is unknown or out of range; one line that names it."""


@dataclass(frozen=True)
class BoundParams:
    """The lower bound: `bound_steps` steps at most (0 = no bound), in at most `bound_share` of the time
    limit, which the algorithm leaves free for it. Without a limit the algorithm's own time counts instead,
    and never less than 1 s. At a relative gap of `goal_gap` it is good enough.
    """

    bound_share: float = 0.3
    bound_steps: int = 400
    goal_gap: float = 0.0

    def __post_init__(self) -> None:
        _check("goal_gap", self.goal_gap, float, 0.0, 1.0)
        _check("bound_share", self.bound_share, float, 0.0, 0.9)
        _check("bound_steps", self.bound_steps, int, 0, 1_000_000)


@dataclass(frozen=True)
class BaselineParams(BoundParams):
    """Baselines have no parameters of their own."""


@dataclass(frozen=True)
class EplbParams(BoundParams):
    """Expert-parallel load balancing. node_groups: groups of nodes, neighbours in their order; 1 is the flat
    form, more the hierarchical one; expert_groups: groups of experts per block in the hierarchical form."""

    node_groups: int = 1
    expert_groups: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("node_groups", self.node_groups, int, 1, 1_000_000)
        _check("expert_groups", self.expert_groups, int, 1, 1_000_000)


@dataclass(frozen=True)
class GreedyParams(BoundParams):
    """Greedy by saving per byte. enumerate: it also starts from every set of up to so many replicas, which
    takes as many runs as there are such sets."""

    enumerate: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("enumerate", self.enumerate, int, 0, 3)


@dataclass(frozen=True)
class SgdParams(BoundParams):
    """Successive greedy decomposition.

    order: of the nodes: "capacity" (descending), "index", or "random" (by seed); rounds: sweeps over all
    nodes, the first included; exact_limit: blocks of up to so many experts get exact tables; exchange_limit:
    larger blocks than this get no one-exchange improvement; exchange_steps: exchanges per table entry; eps:
    of the value-scaled knapsack, used only where the capacity in units of the sizes' greatest common divisor
    is too large for the exact one.
    """

    order: str = "capacity"
    rounds: int = 8
    exact_limit: int = 16
    exchange_limit: int = 64
    exchange_steps: int = 4
    eps: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ("capacity", "index", "random"):
            raise ParamsError(f"order: is {self.order!r:.60}, expected capacity, index or random")
        _check("rounds", self.rounds, int, 1, 1_000_000)
        _check("exact_limit", self.exact_limit, int, 0, 20)
        _check("exchange_limit", self.exchange_limit, int, 0, 1_000_000)
        _check("exchange_steps", self.exchange_steps, int, 0, 1_000_000)
        _check("eps", self.eps, float, 1e-4, 0.5)


@dataclass(frozen=True)
class MaxconvParams(SgdParams):
    """Successive decomposition with convolutions. mode: "fptas" (the tables of `sgd`, merged within 1 -
    `eps`) or "concave" (a modular surrogate of the saving); surrogate, of the concave mode: "shares" gives
    every term of the saving in equal shares to its experts, "singletons" counts only what an expert saves
    alone."""

    mode: str = "fptas"
    surrogate: str = "shares"
    eps: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("concave", "fptas"):
            raise ParamsError(f"mode: is {self.mode!r:.60}, expected concave or fptas")
        if self.surrogate not in ("shares", "singletons"):
            raise ParamsError(f"surrogate: is {self.surrogate!r:.60}, expected shares or singletons")


@dataclass(frozen=True)
class ExactParams(BoundParams):
    """The mixed integer programme. seconds: what HiGHS may take where the solve has no shorter limit;
    variable_limit: a larger programme is not tried."""

    bound_share: float = 0.05
    seconds: float = 600.0
    variable_limit: int = 3_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("seconds", self.seconds, float, 0.0, 1e6)
        _check("variable_limit", self.variable_limit, int, 0, 100_000_000)


@dataclass(frozen=True)
class CertifiedParams(BoundParams):
    """Search with a certificate.

    goal_gap: relative gap at which the search ends too; effort: work of the search where no time limit is
    given, in units of about ten milliseconds of one core; a tenth of it, whatever the time limit, when a
    start is given; patience: rounds of ruin and repair that close less than a hundredth of the gap, after
    which the search ends, once they took most of a second and half as long as the rounds before;
    exact_limit, eps: as for `sgd`.
    """

    bound_share: float = 0.1
    goal_gap: float = 0.001
    effort: int = 1000
    patience: int = 60
    exact_limit: int = 10
    eps: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("effort", self.effort, int, 0, 1_000_000_000)
        _check("patience", self.patience, int, 0, 1_000_000_000)
        _check("exact_limit", self.exact_limit, int, 0, 20)
        _check("eps", self.eps, float, 1e-4, 0.5)


Params = TypeVar("Params", bound=BoundParams)


def read_params(kind: type[Params], given: Mapping[str, Any] | BoundParams | None) -> Params:
    """The parameters of an algorithm from a mapping or from its own dataclass. Raises `ParamsError`."""
    if given is None:
        return kind()
    if isinstance(given, BoundParams):
        if not isinstance(given, kind):
            raise ParamsError(f"params: are {type(given).__name__}, expected {kind.__name__}")
        return given
    known = [field.name for field in dataclasses.fields(kind)]
    for key in given:
        if key not in known:
            raise ParamsError(f"{str(key)!r:.60}: unknown parameter, expected one of {', '.join(known)}")
    return kind(**given)


def _check(key: str, value: Any, kind: type, low: float, high: float) -> None:
    accepted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, accepted) or not low <= value <= high:
        what = "a number" if kind is float else "a whole number"
        raise ParamsError(f"{key}: is {value!r:.60}, expected {what} in {low}..{high}")
