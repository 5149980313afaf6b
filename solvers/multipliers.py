"""What a climb of the dual had come to, for the next one to go on from: the same fleet a little later.

Any finite multipliers, those of replicas at least 0, give a bound: where nodes or experts have changed places
meanwhile, the bound is only weaker at first. What is no multiplier is refused where it is made. They are kept
in single precision, which is more than they are worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from solvers.problem import Float16, Float32, Float64, Int64, ProblemError, UInt64, is_constant
from solvers.tolerances import HELD


@dataclass(frozen=True, eq=False)
class Reaches:
    """Of `SingleCalls`: how far calls pay, float32[N, E], seconds beyond the nearest server."""

    reach: Float32

    def __post_init__(self) -> None:
        _keep(self, "reach", 2, np.float32)

    @property
    def numbers(self) -> int:
        """How many are kept."""
        return self.reach.size


@dataclass(frozen=True, eq=False)
class Potentials:
    """Of `SlowestCalls`: float32[N, L, E]."""

    potential: Float32

    def __post_init__(self) -> None:
        _keep(self, "potential", 3, np.float32)

    @property
    def numbers(self) -> int:
        """How many are kept."""
        return self.potential.size


@dataclass(frozen=True, eq=False)
class HostPotentials:
    """Of `Hosting`: potential float32[E, N]; of the routes with the keys uint64[R], in order, how far they
    pay, reach float32[R], seconds beyond the nearest server."""

    potential: Float32
    key: UInt64
    reach: Float32

    def __post_init__(self) -> None:
        _keep(self, "potential", 2, np.float32)
        _keep(self, "key", 1, np.uint64)
        _keep(self, "reach", 1, np.float32)
        if self.key.shape != self.reach.shape:
            raise ProblemError(f"reach: has shape {self.reach.shape}, expected {self.key.shape}")

    @property
    def numbers(self) -> int:
        """How many are kept."""
        return self.potential.size + 3 * self.reach.size


@dataclass(frozen=True, eq=False)
class CellPotentials:
    """Of `CellCalls`: the pairs of a node and an expert that it calls, cell int64[C] = node * E + expert in
    ascending order, and potential float16[C, L] of each."""

    cell: Int64
    potential: Float16

    def __post_init__(self) -> None:
        _keep(self, "cell", 1, np.int64, least=0)
        _keep(self, "potential", 2, np.float16)
        if len(self.cell) != len(self.potential):
            raise ProblemError(f"potential: has shape {self.potential.shape}, expected {len(self.cell)} rows")
        falls = np.flatnonzero(np.diff(self.cell) <= 0)
        if len(falls):
            at = int(falls[0]) + 1
            raise ProblemError(f"cell[{at}]: is {self.cell[at]}, expected more than cell[{at - 1}]")

    @property
    def numbers(self) -> int:
        """How many are kept."""
        return self.potential.size // 2 + 2 * self.cell.size


Part = Reaches | Potentials | HostPotentials | CellPotentials


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Of a whole climb: its parts', the replicas' price float64[E], at least 0, the relaxed placement held
    float32[N, E] or float16[N, E], 0..1, and how long its steps are: `step`, after so many `steps`, with so
    much `weight` on the placement, both above 0.

    Raises `ProblemError`, with one line that names the key and the index, where something is of another
    shape, not finite or outside its range. Arrays that others can write to are copied.
    """

    parts: tuple[Part, ...]
    replica_price: Float64
    held: Float32 | Float16
    weight: float
    step: float
    steps: int

    def __post_init__(self) -> None:
        _keep(self, "replica_price", 1, np.float64, least=0.0)
        _keep(self, "held", 2, (np.float32, np.float16), least=-HELD, most=1.0 + HELD)
        if self.replica_price.shape != self.held.shape[1:]:
            raise ProblemError(
                f"replica_price: has shape {self.replica_price.shape}, expected {self.held.shape[1:]}"
            )
        for key in ("weight", "step"):
            value: Any = getattr(self, key)
            if not 0.0 < value < math.inf:
                raise ProblemError(f"{key}: is {value}, expected a finite number above 0")
        if self.steps < 0:
            raise ProblemError(f"steps: is {self.steps}, expected at least 0")

    @property
    def numbers(self) -> int:
        """How many are kept, of four bytes or a few of eight."""
        held = self.held.size * self.held.itemsize // 4
        return held + sum(part.numbers for part in self.parts)


@dataclass(frozen=True, eq=False)
class AreaMultipliers:
    """Of the climb of one area of a large fleet, the nodes `members` int64[A], at least 0 and ascending: the
    first A rows of what it held are theirs."""

    members: Int64
    multipliers: Multipliers

    def __post_init__(self) -> None:
        _keep(self, "members", 1, np.int64, least=0)
        falls = np.flatnonzero(np.diff(self.members) <= 0)
        if len(falls):
            at = int(falls[0]) + 1
            raise ProblemError(f"members[{at}]: is {self.members[at]}, expected more than members[{at - 1}]")
        if len(self.members) > len(self.multipliers.held):
            rows = len(self.multipliers.held)
            raise ProblemError(f"members: are {len(self.members)}, expected at most {rows}, the rows of held")


@dataclass(frozen=True, eq=False)
class RegionMultipliers:
    """Of the climbs of all areas of a large fleet, no node in two of them, and the price on replicas
    float64[E], at least 0, that they share.

    Raises `ProblemError` as `Multipliers` does.
    """

    areas: tuple[AreaMultipliers, ...]
    replica_price: Float64

    def __post_init__(self) -> None:
        _keep(self, "replica_price", 1, np.float64, least=0.0)
        seen: set[int] = set()
        for i, area in enumerate(self.areas):
            twice = seen.intersection(area.members.tolist())
            if twice:
                raise ProblemError(f"areas[{i}].members: has {min(twice)}, which an area before it has, too")
            seen.update(area.members.tolist())
            if area.multipliers.replica_price.shape != self.replica_price.shape:
                raise ProblemError(
                    f"areas[{i}].replica_price: has shape {area.multipliers.replica_price.shape}, "
                    f"expected {self.replica_price.shape}"
                )

    @property
    def numbers(self) -> int:
        """How many are kept, of four bytes or a few of eight."""
        return sum(area.multipliers.numbers for area in self.areas)


AnyMultipliers = Multipliers | RegionMultipliers
"""What a solve hands on to the next one."""


def _keep(
    owner: object,
    key: str,
    dimensions: int,
    dtype: type[np.generic] | tuple[type[np.generic], ...],
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Checks an array of `owner` and makes it one that nobody can write to."""
    given: npt.NDArray[Any] = np.asarray(getattr(owner, key))
    accepted = dtype if isinstance(dtype, tuple) else (dtype,)
    if given.ndim != dimensions or given.dtype not in accepted:
        raise ProblemError(
            f"{key}: has type {given.dtype} and {given.ndim} dimensions, "
            f"expected {' or '.join(str(np.dtype(one)) for one in accepted)} and {dimensions}"
        )
    good = np.isfinite(given) & (given >= least) & (given <= most)
    if not good.all():
        index = np.unravel_index(int(np.argmin(good)), good.shape)
        place = ",".join(str(int(i)) for i in index)
        range_ = "a finite number"
        if least > -math.inf:
            range_ += f" of at least {max(0.0, least):g}"
        if most < math.inf:
            range_ += " and at most 1"
        raise ProblemError(f"{key}[{place}]: is {given[index]}, expected {range_}")
    if not is_constant(given):
        given = given.copy()
        given.flags.writeable = False
    object.__setattr__(owner, key, given)
