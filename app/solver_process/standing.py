"""How placements do, and when one is worth moving to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """How a placement does on a problem: J, and M of getting there from what nodes hold."""

    latency_cost: float
    migration_seconds: float
    shortfalls: tuple[str, ...]


def worth_it(found: Standing, in_force: Standing, horizon_seconds: float, min_improvement: float) -> bool:
    """H J(X) + M(X) < H J(X0) (1 - min_improvement) + M(X0), M counted from what nodes hold.

    Where nodes hold what is in force, M(X0) is 0 and this is the rule of the problem. While a migration runs,
    what is still to be moved for X0 counts for X0, so that turning round in the middle must pay too.
    """
    staying = horizon_seconds * in_force.latency_cost * (1.0 - min_improvement) + in_force.migration_seconds
    return horizon_seconds * found.latency_cost + found.migration_seconds < staying


def improvement(found: Standing, in_force: Standing) -> float | None:
    """(J(X0) - J(X)) / J(X0); None where there is no traffic, or some of it that X0 serves nowhere."""
    if not 0 < in_force.latency_cost < float("inf"):
        return None
    return 1.0 - found.latency_cost / in_force.latency_cost
