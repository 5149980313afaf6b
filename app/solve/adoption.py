"""Whether a placement that was found is worth moving to."""

from dataclasses import dataclass

from app.solver_process.standing import Standing, improvement, worth_it
from app.solver_process.tasks import SolveOutcome
from moeplace_agent.wording import agreeing, counted
from solvers.result import SolveStatus


@dataclass(frozen=True)
class Decision:
    """`detail` says in words why."""

    adopt: bool
    detail: str


def decide(outcome: SolveOutcome, horizon_seconds: float, min_improvement: float) -> Decision:
    """Adopt what is needed (nothing in force, or what is in force breaks a constraint) or what pays: on all
    the traffic known and, where one half of it was held out, on that half, too.

    A solver fits its placement to the sample, so that the same sample flatters it; what was not solved on
    does not.
    """
    found, in_force = outcome.found, outcome.in_force
    if found is None:
        proved = outcome.result.status is SolveStatus.INFEASIBLE
        lack = outcome.result.shortfall or "no placement exists"
        return Decision(False, f"{'infeasible' if proved else 'not found'}: {lack}")
    if found.shortfalls:
        return Decision(False, f"refused, the solver's placement breaks a constraint: {found.shortfalls[0]}")
    left = ""
    if outcome.withheld_copies > 0:
        left = f"; {outcome.withheld_copies} more copies are left for later intervals"
    if in_force is None:
        return Decision(True, "adopted as the first placement")
    if in_force.shortfalls:
        more = f" (and {len(in_force.shortfalls) - 1} more)" if len(in_force.shortfalls) > 1 else ""
        return Decision(
            True, f"adopted because the placement in force fails: {in_force.shortfalls[0]}{more}{left}"
        )
    gain = _gain(found, in_force)
    if outcome.copies == 0 and found.latency_cost == in_force.latency_cost:
        if outcome.withheld_copies > 0:
            return Decision(False, f"not adopted: the limits of this interval leave nothing{left}")
        return Decision(False, "the placement in force is as good")
    moving = f"{counted(outcome.copies, 'copy', 'copies')} taking {found.migration_seconds:.3g} s"
    rule = f"pay back by {min_improvement:.1%} within {horizon_seconds:g} s"
    if not worth_it(found, in_force, horizon_seconds, min_improvement):
        return Decision(False, f"not adopted: latency {gain}, and {moving}, do not {rule}{left}")
    trial = outcome.trial
    held_out = ""
    if trial is not None and trial.in_force is not None:
        held_out = f" ({_gain(trial.found, trial.in_force)} on traffic held out)"
        if not worth_it(trial.found, trial.in_force, horizon_seconds, min_improvement):
            return Decision(
                False,
                f"not adopted: latency {gain}{held_out}: what was found in one half of the traffic does not "
                f"{rule} in the other, so it may be noise",
            )
    return Decision(
        True,
        f"adopted: latency {gain}{held_out}, {counted(outcome.copies, 'copy', 'copies')} "
        f"({outcome.migration_bytes} bytes) {agreeing(outcome.copies, 'pays', 'pay')} back "
        f"within the horizon of {horizon_seconds:g} s{left}",
    )


def _gain(found: Standing, in_force: Standing) -> str:
    gained = improvement(found, in_force)
    return "unchanged" if gained is None else f"{-gained:+.1%}"
