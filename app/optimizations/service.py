"""What may be asked of the solvers, and when."""

import uuid

from redis.asyncio import Redis

from app.clusters.service import check_algorithm
from app.clusters.store import require_cluster
from app.errors import Conflict, FieldError, InvalidRequest, NotFound
from app.nodes.store import node_ids
from app.optimizations import store
from app.optimizations.schemas import (
    AlgorithmDescription,
    AlgorithmList,
    OptimizationList,
    OptimizationRecord,
    OptimizationRequest,
    OptimizationState,
    Overrides,
)
from app.storage.clock import server_now

FINAL = frozenset({OptimizationState.SUCCEEDED, OptimizationState.FAILED, OptimizationState.CANCELLED})


async def start(redis: Redis, cluster_id: str, request: OptimizationRequest) -> OptimizationRecord:
    """Ask for a solve."""
    await require_cluster(redis, cluster_id)
    if request.algorithm is not None:
        await check_algorithm(request.algorithm, "/algorithm")
    await _check_overrides(redis, cluster_id, request)
    record = OptimizationRecord(
        optimization_id=str(uuid.uuid4()),
        request=request,
        state=OptimizationState.QUEUED,
        created_at=server_now(),
        started_at=None,
        finished_at=None,
        result=None,
        error=None,
    )
    await store.enqueue(redis, cluster_id, record)
    return record


async def cancel(redis: Redis, cluster_id: str, optimization_id: str) -> OptimizationRecord:
    """A solve that waits or runs ends; `Conflict` where it ended otherwise before."""

    def change(record: OptimizationRecord) -> OptimizationRecord:
        if record.state is OptimizationState.CANCELLED:
            return record
        if record.state in FINAL:
            raise Conflict(f"optimization {optimization_id} is {record.state.value} already")
        return record.model_copy(update={"state": OptimizationState.CANCELLED, "finished_at": server_now()})

    record = await store.revise(redis, cluster_id, optimization_id, change)
    if record is None:
        raise absent(cluster_id, optimization_id)
    return record


async def list_optimizations(
    redis: Redis, cluster_id: str, *, limit: int, before: str | None
) -> OptimizationList:
    await require_cluster(redis, cluster_id)
    records, next_before = await store.read_page(redis, cluster_id, limit=limit, before=before)
    return OptimizationList(optimizations=records, next_before=next_before)


def list_algorithms() -> AlgorithmList:
    """What `algorithm` may name; call it in a thread, since compiled code comes with it at first."""
    from solvers.algorithms import ALGORITHMS

    return AlgorithmList(
        algorithms=[
            AlgorithmDescription(name=found.name, summary=found.summary, certifies=found.certifies)
            for found in ALGORITHMS.values()
        ]
    )


def absent(cluster_id: str, optimization_id: str) -> NotFound:
    return NotFound(f"there is no optimization {optimization_id} in cluster {cluster_id}, or not any more")


async def _check_overrides(redis: Redis, cluster_id: str, request: OptimizationRequest) -> None:
    overrides = request.overrides
    if overrides == Overrides():
        return
    if not request.validate_only:
        raise _refused("/overrides", "expected only with validate_only", "NEEDS_VALIDATE_ONLY")
    known = set(await node_ids(redis, cluster_id))
    places = [(f"/overrides/remove_nodes/{index}", name) for index, name in enumerate(overrides.remove_nodes)]
    places += [(f"/overrides/capacity_bytes/{name}", name) for name in overrides.capacity_bytes]
    for pointer, name in places:
        if name not in known:
            raise _refused(pointer, f"node {name} is not registered", "UNKNOWN_NODE")
    removed = known.intersection(overrides.remove_nodes)
    if known and removed == known:
        raise _refused("/overrides/remove_nodes", "expected at least one node to remain", "NO_NODES")


def _refused(pointer: str, detail: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"{pointer}: {detail}", errors=[FieldError(pointer, detail, code)])
