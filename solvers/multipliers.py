"""What a climb of the dual had come to, for the next one to go on from: the same fleet a little later.

Any multipliers give a bound, so nothing about them can be wrong: where nodes or experts have changed places
meanwhile, the bound is only weaker at first. They are kept in single precision, which is more than they are
worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from solvers.problem import Float32, Float64, UInt64


@dataclass(frozen=True, eq=False)
class Reaches:
    """Of `SingleCalls`: how far calls pay, float32[N, E], seconds beyond the nearest server."""

    reach: Float32

    @property
    def numbers(self) -> int:
        """How many are kept."""
        return self.reach.size


@dataclass(frozen=True, eq=False)
class Potentials:
    """Of `SlowestCalls`: float32[N, L, E]."""

    potential: Float32

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

    @property
    def numbers(self) -> int:
        """How many are kept."""
        return self.potential.size + 3 * self.reach.size


Part = Reaches | Potentials | HostPotentials


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Of a whole climb: its parts', the replicas' price float64[E], the relaxed placement held float32[N, E],
    and how long its steps are: `step`, after so many `steps`, with so much `weight` on the placement."""

    parts: tuple[Part, ...]
    replica_price: Float64
    held: Float32
    weight: float
    step: float
    steps: int

    @property
    def numbers(self) -> int:
        """How many are kept, of four bytes or a few of eight."""
        return self.held.size + sum(part.numbers for part in self.parts)
