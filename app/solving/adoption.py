"""Whether a placement that was found is worth moving to."""

from dataclasses import dataclass

from app.solving.tasks import SolveOutcome, Standing


@dataclass(frozen=True)
class Decision:
    """`detail` says in words why."""

    adopt: bool
    detail: str


def worth_it(found: Standing, in_force: Standing, horizon_seconds: float, min_improvement: float) -> bool:
    """H J(X) + M(X) < H J(X0) (1 - min_improvement) + M(X0), M counted from what nodes hold.

    Where nodes hold what is in force, M(X0) is 0 and this is the rule of the problem. While a migration runs,
    what is still to be moved for X0 counts for X0, so that turning round in the middle must pay too.
    """
    staying = horizon_seconds * in_force.latency_cost * (1.0 - min_improvement) + in_force.migration_seconds
    return horizon_seconds * found.latency_cost + found.migration_seconds < staying


def decide(outcome: SolveOutcome, horizon_seconds: float, min_improvement: float) -> Decision:
    """Adopt what is needed (nothing in force, or what is in force breaks a constraint) or what pays."""
    found, in_force = outcome.found, outcome.in_force
    if found is None:
        return Decision(False, f"infeasible: {outcome.result.shortfall or 'no placement exists'}")
    if found.shortfalls:
        return Decision(False, f"refused, the solver's placement breaks a constraint: {found.shortfalls[0]}")
    if in_force is None:
        return Decision(True, "adopted as the first placement")
    if in_force.shortfalls:
        more = f" (and {len(in_force.shortfalls) - 1} more)" if len(in_force.shortfalls) > 1 else ""
        return Decision(True, f"adopted since the placement in force fails: {in_force.shortfalls[0]}{more}")
    gain = _gain(found, in_force)
    if outcome.copies == 0 and found.latency_cost == in_force.latency_cost:
        return Decision(False, "the placement in force is as good")
    if worth_it(found, in_force, horizon_seconds, min_improvement):
        return Decision(
            True,
            f"adopted: latency {gain}, {outcome.copies} copies ({outcome.migration_bytes} bytes) pay back "
            f"within the horizon of {horizon_seconds:g} s",
        )
    return Decision(
        False,
        f"not adopted: latency {gain}, and {outcome.copies} copies taking {found.migration_seconds:.3g} s, "
        f"do not pay back by {min_improvement:.1%} within {horizon_seconds:g} s",
    )


def _gain(found: Standing, in_force: Standing) -> str:
    if in_force.latency_cost <= 0:
        return "unchanged"
    return f"{found.latency_cost / in_force.latency_cost - 1.0:+.1%}"
