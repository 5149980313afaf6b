"""Why there is no placement, and what to do about it, in words that name nodes and bytes."""

from collections.abc import Sequence

from app.observe.holdup import Holdup
from app.observe.observation import Observation
from app.placements.schemas import Outlook
from app.solver_process.tasks import SolveOutcome
from moeplace_agent.wording import counted
from solvers.feasible.shortage import Shortage, Unplaced
from solvers.params import DEFAULT_ALGORITHM
from solvers.result import SolveStatus

_LISTED = 4


def bytes_in_words(size: int) -> str:
    """The exact number, and a rounded one from a kilobyte on: "786432 bytes (786 kB)"."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= factor:
            value = size / factor
            return f"{size} bytes ({value:{'.0f' if value >= 100 else '.3g'}} {unit})"
    return counted(size, "byte")


def nodes_out(observation: Observation) -> str | None:
    """Registered nodes that may hold nothing, with the reason; None: there are none."""
    fleet = observation.fleet
    out = [row for row, node_id in enumerate(fleet.node_ids) if node_id not in observation.usable]
    return listed([_out(observation, row) for row in out]) if out else None


def bring_back(observation: Observation, node_ids: Sequence[str]) -> str:
    """What to do to have these nodes hold experts again."""
    fleet, live = observation.fleet, observation.live
    lost = [node_id for node_id in node_ids if node_id not in live]
    drained = [node_id for node_id in node_ids if fleet.nodes[fleet.row(node_id)].draining]
    kept = [node_id for node_id in node_ids if node_id in observation.usable]  # removed in a what-if
    parts = [f"bring {listed(lost)} back"] if lost else []
    parts += [f"keep {listed(kept)}"] if kept else []
    nodes = f"/v1/clusters/{observation.cluster.cluster_id}/nodes"
    parts += [f"let {node_id} stay (POST {nodes}/{node_id}:undrain)" for node_id in drained]
    return " and ".join(parts)


def no_room(observation: Observation, lack: Shortage) -> Holdup:
    """Of a fleet that has no placement."""
    return Holdup(Outlook.CANNOT, _cause(observation, lack), _remedy(observation, lack))


def not_found(observation: Observation, outcome: SolveOutcome) -> Holdup | None:
    """Why the solve found no placement; None where it did."""
    if outcome.found is not None and not outcome.found.shortfalls:
        return None
    if outcome.shortage is not None:
        return no_room(observation, outcome.shortage)
    algorithm = outcome.result.algorithm
    if outcome.found is not None:
        reason = f"the placement of {algorithm} breaks a constraint: {outcome.found.shortfalls[0]}"
    else:
        reason = f"{algorithm} finds no placement: {outcome.result.shortfall or 'none exists'}"
    remedy = None
    if outcome.result.status is SolveStatus.TIME_LIMIT:
        remedy = "give solves more time (time_limit_seconds), or give nodes more memory"
    if algorithm != DEFAULT_ALGORITHM:
        other = f"solve with another algorithm, such as {DEFAULT_ALGORITHM}"
        remedy = other if remedy is None else f"{remedy}, or {other}"
    return Holdup(Outlook.CANNOT, reason, remedy)


def impossible_plan(observation: Observation, plan_id: str, reason: str) -> Holdup:
    """Of a plan that could not be made: none is tried until the fleet changes."""
    origin = observation.cluster.settings.origin is not None
    if "no origin gives" in reason:
        remedy = "register a node that holds these experts, or bring one back that did"
        remedy += "" if origin else ", or give the cluster an origin"
    else:
        size = int(observation.fleet.expert_bytes.max(initial=0))
        remedy = f"add {bytes_in_words(size)} of memory for experts to a node"
        if observation.cluster.settings.min_replicas > 0:
            remedy += ", or set min_replicas to 0" if origin else ", or give the cluster an origin"
    return Holdup(Outlook.CANNOT, f"plan {plan_id} failed: {reason}", remedy)


def cancelled_plan(observation: Observation, plan_id: str, generation: int) -> Holdup:
    """Of a plan that an operator cancelled: the fleet stays as it is."""
    body = f'{{"to_generation": {generation}, "validate_only": false}}'
    return Holdup(
        Outlook.WAITING,
        f"plan {plan_id} was cancelled by an operator",
        f"ask for the way to generation {generation}: "
        f"POST /v1/clusters/{observation.cluster.cluster_id}/migration_plans {body}",
    )


def paused_plan(observation: Observation, plan_id: str) -> Holdup:
    plans = f"/v1/clusters/{observation.cluster.cluster_id}/migration_plans"
    return Holdup(
        Outlook.WAITING,
        f"plan {plan_id} is paused by an operator",
        f"resume it: POST {plans}/{plan_id}:resume",
    )


def stuck_moves(node_id: str, count: int) -> Holdup:
    return Holdup(
        Outlook.WAITING,
        f"{node_id} has {counted(count, 'move')} to carry out and makes no progress",
        f"if it lasts, check the agent of {node_id} and its log",
    )


def _cause(observation: Observation, lack: Shortage) -> str:
    out = listed([_out(observation, row) for row in lack.blocked])
    if lack.usable == 0:
        return f"no node may hold experts: {out}" if out else "no node may hold experts"
    without = f" without {out}" if out else ""
    if lack.unplaced is None:
        return f"the experts that are pinned have no place{without}"
    if lack.min_replicas > lack.usable:
        nodes = counted(lack.usable, "node")
        return f"min_replicas is {lack.min_replicas}, and only {nodes} may hold experts{without}"
    said = f"not enough memory{without}: {_without_place(lack.unplaced, lack)}"
    if lack.largest_expert > lack.largest_device:
        said += (
            f"; the largest expert has {bytes_in_words(lack.largest_expert)}, "
            f"the largest device {bytes_in_words(lack.largest_device)}"
        )
    return said


def _remedy(observation: Observation, lack: Shortage) -> str:
    ids = observation.fleet.node_ids
    ways = [bring_back(observation, [ids[row] for row in rows]) for rows in lack.returning[:_LISTED]]
    if lack.unplaced is not None:
        back = ""
        missing = lack.unplaced
        if lack.blocked and not lack.returning and lack.still_unplaced is not None:
            missing = lack.still_unplaced
            back = f"{bring_back(observation, [ids[row] for row in lack.blocked])} and "
        ways.append(f"{back}{_add(missing, lack)}")
        if back:
            ways.append(_add(lack.unplaced, lack))
    if lack.replicas is not None:
        ways.append(f"set min_replicas to {lack.replicas}")
    if lack.min_replicas > 0:
        if lack.origin:
            ways.append("let the origin serve what no node has room for (min_replicas: 0)")
        else:
            ways.append("give the cluster an origin and set min_replicas to 0")
    return ", or ".join(ways)


def _add(missing: Unplaced, lack: Shortage) -> str:
    about = "" if missing.proved else "at most "
    said = f"add {about}{bytes_in_words(missing.bytes)} of memory for experts"
    if missing.nodes > 1:
        said += f" on {missing.nodes} more nodes together"
    elif lack.min_replicas > 1:
        said += " on one more node"
    if lack.usable and lack.largest_expert > lack.largest_device:
        said += f", with a device of at least {bytes_in_words(lack.largest_expert)}"
    return said


def _without_place(missing: Unplaced, lack: Shortage) -> str:
    what = "experts" if lack.min_replicas <= 1 else f"copies ({lack.min_replicas} of each expert)"
    have = "has" if missing.copies == 1 else "have"
    return f"{missing.copies} of {lack.wanted} {what}, {bytes_in_words(missing.bytes)}, {have} no place"


def _out(observation: Observation, row: int) -> str:
    """A node that may hold nothing; in a what-if a node may be removed that is neither lost nor draining."""
    node = observation.fleet.nodes[row]
    if node.node_id not in observation.live:
        return f"{node.node_id} (lost)"
    return f"{node.node_id} (draining)" if node.draining else node.node_id


def listed(items: Sequence[str], last: str = "and") -> str:
    shown = list(items)
    if len(shown) > _LISTED:
        shown = [*shown[:_LISTED], f"{len(shown) - _LISTED} more"]
    return f" {last} ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
