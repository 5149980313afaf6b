"""What nodes report of the moves they were told to make."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import cast

from redis.asyncio import Redis

from app.clusters.store import require_cluster
from app.errors import Conflict, FieldError, Forbidden, InvalidRequest, NotFound
from app.migration_plans import store
from app.migration_plans.schemas import (
    MoveReport,
    MoveReportAnswer,
    MoveReportBatchAnswer,
    MoveReportItem,
    MoveReportOutcome,
    MoveReportRecord,
    RejectedReport,
    ReportedState,
)
from app.migration_plans.store import KnownMove, Reported
from app.models.store import model_ids, read_models
from app.nodes.service import require_node
from app.storage.clock import server_now
from app.storage.keys import ClusterKeys
from migrations.model import MoveKind

REMEMBERED_PLANS = 16
REMEMBERED_CLUSTERS = 16

_WORDS: Mapping[Reported, str] = {
    Reported.OTHER_INSTANCE: "the node is registered with another instance_uid: register again",
    Reported.NOT_RELEASED: "this attempt of the move was not released to the node",
    Reported.STALE_ATTEMPT: "a later attempt of the move was released since",
}


class ReportMemory:
    """What reports are judged by, kept between requests: moves of plans never change, and digests of experts
    are those of one revision of the cluster."""

    def __init__(self) -> None:
        self._moves: OrderedDict[tuple[str, str], Mapping[str, KnownMove]] = OrderedDict()
        self._digests: OrderedDict[str, tuple[int, Mapping[tuple[str, int], list[str]]]] = OrderedDict()

    async def move(self, redis: Redis, cluster_id: str, plan_id: str, move_id: str) -> KnownMove | None:
        known = self._moves.get((cluster_id, plan_id))
        if known is None or move_id not in known:
            # A plan asked for over HTTP has no moves until the worker has made it.
            known = await store.read_moves(redis, cluster_id, plan_id)
            if known is None:
                return None
            self._moves[cluster_id, plan_id] = known
            while len(self._moves) > REMEMBERED_PLANS:
                self._moves.popitem(last=False)
        return known.get(move_id)

    async def digest(self, redis: Redis, cluster_id: str, move: KnownMove) -> str | None:
        """Registered for the move's expert; None where there is none."""
        revision = int(cast("bytes | None", await redis.get(ClusterKeys(cluster_id).revision)) or 0)
        known = self._digests.get(cluster_id)
        if known is None or known[0] != revision:
            models = await read_models(redis, cluster_id, await model_ids(redis, cluster_id))
            digests = {
                (model.model_id, block.layer): block.expert_digests
                for model in models
                for block in model.blocks
                if block.expert_digests is not None
            }
            known = self._digests[cluster_id] = (revision, digests)
            while len(self._digests) > REMEMBERED_CLUSTERS:
                self._digests.popitem(last=False)
        of_layer = known[1].get((move.model_id, move.layer))
        return of_layer[move.expert] if of_layer is not None and move.expert < len(of_layer) else None


async def report_move(
    redis: Redis,
    memory: ReportMemory,
    cluster_id: str,
    plan_id: str,
    move_id: str,
    report: MoveReport,
    *,
    by_node: str | None = None,
) -> MoveReportAnswer:
    """Take one report in; `NotFound` where there is no such move, `Conflict` where it was not for this
    instance of its node to make. `by_node`: `Forbidden` where it is another's."""
    move = await memory.move(redis, cluster_id, plan_id, move_id)
    if move is None:
        await require_cluster(redis, cluster_id)
        raise NotFound(f"there is no move {move_id} in a plan {plan_id} of cluster {cluster_id}")
    if by_node is not None and by_node != move.destination:
        detail = f"the move is for node {move.destination} to make"
        raise Forbidden(detail, errors=[FieldError("header:Authorization", detail, "OTHER_NODE")])
    fault = await _fault(redis, memory, cluster_id, move, report)
    if fault is not None:
        raise InvalidRequest(f"{fault.pointer}: {fault.detail}", errors=[fault])
    [outcome] = await store.write_reports(redis, cluster_id, [(plan_id, move, _record(move, report))])
    if outcome in _WORDS:
        raise Conflict(_WORDS[outcome], errors=[FieldError("", _WORDS[outcome], outcome.name)])
    return MoveReportAnswer(outcome=MoveReportOutcome(outcome.name))


async def report_moves(
    redis: Redis, memory: ReportMemory, cluster_id: str, node_id: str, reports: Sequence[MoveReportItem]
) -> MoveReportBatchAnswer:
    """Take in those that can be, in order, and tell of each of the others why not."""
    await require_cluster(redis, cluster_id)
    await require_node(redis, cluster_id, node_id)
    rejected: list[RejectedReport] = []
    taken: list[tuple[str, KnownMove, MoveReportRecord]] = []
    places: list[int] = []
    for index, report in enumerate(reports):
        move = await memory.move(redis, cluster_id, report.plan_id, report.move_id)
        if move is None:
            detail = f"there is no move {report.move_id} in a plan {report.plan_id}"
            fault: FieldError | None = FieldError("/move_id", detail, "UNKNOWN_MOVE")
        elif move.destination != node_id:
            detail = f"the move is for node {move.destination} to make"
            fault = FieldError("/move_id", detail, "OTHER_NODE")
        else:
            fault = await _fault(redis, memory, cluster_id, move, report)
        if fault is not None or move is None:
            assert fault is not None
            rejected.append(_rejected(index, fault))
            continue
        taken.append((report.plan_id, move, _record(move, report)))
        places.append(index)
    outcomes = await store.write_reports(redis, cluster_id, taken) if taken else []
    for index, outcome in zip(places, outcomes, strict=True):
        if outcome in _WORDS:
            rejected.append(_rejected(index, FieldError("", _WORDS[outcome], outcome.name)))
    rejected.sort(key=lambda found: int(found.pointer.split("/")[2]))
    return MoveReportBatchAnswer(accepted_count=len(reports) - len(rejected), rejected=rejected)


async def _fault(
    redis: Redis, memory: ReportMemory, cluster_id: str, move: KnownMove, report: MoveReport
) -> FieldError | None:
    if report.state is not ReportedState.SUCCEEDED or report.digest is None or move.kind is not MoveKind.COPY:
        return None
    expected = await memory.digest(redis, cluster_id, move)
    if expected is None or expected == report.digest:
        return None
    return FieldError(
        "/digest", f"the expert's registered digest is {expected}: report FAILED", "DIGEST_MISMATCH"
    )


def _record(move: KnownMove, report: MoveReport) -> MoveReportRecord:
    fields = report.model_dump(exclude={"plan_id", "move_id"})
    return MoveReportRecord(**fields, node_id=move.destination, received_at=server_now())


def _rejected(index: int, fault: FieldError) -> RejectedReport:
    return RejectedReport(pointer=f"/reports/{index}{fault.pointer}", detail=fault.detail, code=fault.code)
