"""A cluster in Redis as the API would write it, and nodes that obey, without HTTP in between."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from redis.asyncio import Redis

from app.clusters.schemas import ClusterRecord, ClusterSettings, OriginSpec
from app.config import Settings
from app.migration_plans.schemas import MoveReportRecord, PlanRecord, ReportedState
from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import ApplyState, Device, LatencySpec, NodeRecord, NodeSpec, NodeStatusRecord
from app.placements.schemas import PlacementDocument, PlacementStatus
from app.runtime.cancellation import end
from app.storage import topics
from app.storage.documents import read_document, read_version
from app.storage.keys import CLUSTERS, ClusterKeys
from app.worker import worker

MODEL = "tiny"
EXPERT_BYTES = 1000
LONG_LEASE_SECONDS = 3600.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def quick_settings(**changes: Any) -> Settings:
    """A worker that looks often."""
    return Settings(
        **{"worker_tick_seconds": 0.05, "worker_lease_seconds": 2.0, "heartbeat_interval_seconds": 0.5}
        | changes
    )


def cluster_settings(**changes: Any) -> ClusterSettings:
    return ClusterSettings(
        **{"origin": OriginSpec(latency_seconds=0.1), "optimization_interval_seconds": 3600.0} | changes
    )


@dataclass
class Cluster:
    """One cluster, written as the API writes it."""

    redis: Redis
    cluster_id: str = "c"
    layers: int = 2
    experts: int = 4
    instances: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> ClusterKeys:
        return ClusterKeys(self.cluster_id)

    # --- specification
    async def create(self, settings: ClusterSettings | None = None, *, model: bool = True) -> None:
        now = datetime.now(UTC)
        record = ClusterRecord(
            cluster_id=self.cluster_id,
            uid="u1",
            created_at=now,
            updated_at=now,
            settings=settings or cluster_settings(),
        )
        await self.redis.set(self.keys.cluster, record.model_dump_json())
        await self.redis.sadd(CLUSTERS, self.cluster_id)
        if model:
            await self.add_model(MODEL)
        await self.changed()

    async def add_model(self, model_id: str) -> None:
        now = datetime.now(UTC)
        blocks = [
            Block(layer=layer, experts=self.experts, expert_bytes=EXPERT_BYTES, top_k=2)
            for layer in range(self.layers)
        ]
        record = ModelRecord(
            model_id=model_id,
            digest=f"{model_id}-1",
            created_at=now,
            updated_at=now,
            blocks=blocks,
            source="blocks",
            origin_url=None,
        )
        await self.redis.hset(self.keys.models, model_id, record.model_dump_json())
        await self.changed()

    async def add_node(
        self, node_id: str, slots: int, *, draining: bool = False, peers: dict[str, float] | None = None
    ) -> None:
        now = datetime.now(UTC)
        fresh = node_id not in self.instances
        self.instances.setdefault(node_id, f"{node_id}-i1")
        record = NodeRecord(
            node_id=node_id,
            uid=f"{node_id}-u",
            created_at=now,
            updated_at=now,
            draining=draining,
            spec=NodeSpec(
                instance_uid=self.instances[node_id],
                devices=[Device(device_id="gpu0", memory_bytes=slots * EXPERT_BYTES)],
                base_url=f"http://{node_id}",
                latency=LatencySpec(peers_seconds=peers or {}),
            ),
        )
        await self.redis.hset(self.keys.nodes, node_id, record.model_dump_json())
        if fresh:
            await self.beat(node_id)
        await self.changed()

    async def drain(self, node_id: str) -> None:
        stored = await self.redis.hget(self.keys.nodes, node_id)
        assert stored is not None
        record = NodeRecord.model_validate_json(stored).model_copy(update={"draining": True})
        await self.redis.hset(self.keys.nodes, node_id, record.model_dump_json())
        await self.changed()

    async def changed(self) -> None:
        await self.redis.incr(self.keys.revision)
        await self.redis.publish(self.keys.wake, topics.WORK)

    # --- what nodes say
    async def beat(self, node_id: str, *, lease_seconds: float = LONG_LEASE_SECONDS, **changes: Any) -> None:
        status = NodeStatusRecord(
            **{
                "instance_uid": self.instances[node_id],
                "sequence_number": 1,
                "received_at": datetime.now(UTC),
                "state": ApplyState.APPLIED,
                "reason": None,
                "generation": None,
                "assignment_version": None,
                "holds_digest": None,
                "full_state_due": False,
                "latency": None,
            }
            | changes
        )
        await self.redis.hset(self.keys.node_status, node_id, status.model_dump_json())
        await self.redis.zadd(self.keys.node_leases, {node_id: (time.time() + lease_seconds) * 1000})

    async def lose(self, node_id: str) -> None:
        await self.redis.zadd(self.keys.node_leases, {node_id: (time.time() - 1) * 1000})
        await self.redis.publish(self.keys.wake, topics.WORK)

    async def holds(self, node_id: str, members: Iterable[str]) -> None:
        key = self.keys.holdings(node_id)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.delete(key)
            if listed := list(members):
                pipe.sadd(key, *listed)
            pipe.hincrby(self.keys.holdings_versions, node_id, 1)
            await pipe.execute()

    async def held(self, node_id: str) -> set[str]:
        members = cast("set[bytes]", await self.redis.smembers(self.keys.holdings(node_id)))
        return {member.decode() for member in members}

    async def report(self, node_id: str, move: dict[str, Any], state: ReportedState, **more: Any) -> None:
        """As the API does: the report and what the node holds by it, at once."""
        record = MoveReportRecord(
            instance_uid=self.instances[node_id],
            generation=1,
            attempt=move["attempt"],
            state=state,
            node_id=node_id,
            received_at=datetime.now(UTC),
            **more,
        )
        member = f"{move['model_id']}/{move['layer']}/{move['expert']}"
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(self.keys.plan_reports(move["plan_id"]), move["move_id"], record.model_dump_json())
            if state is ReportedState.SUCCEEDED:
                if move["kind"] == "COPY":
                    pipe.sadd(self.keys.holdings(node_id), member)
                else:
                    pipe.srem(self.keys.holdings(node_id), member)
                pipe.hincrby(self.keys.holdings_versions, node_id, 1)
            pipe.publish(self.keys.wake, topics.WORK)
            await pipe.execute()

    async def orders(self, node_id: str) -> list[dict[str, Any]]:
        document = await read_document(self.redis, self.keys.moves(node_id))
        return [] if document is None else list(json.loads(document.json)["moves"])

    # --- what the worker says
    async def generation(self) -> int | None:
        pointer = await self.redis.hget(self.keys.placement, "generation")
        return None if pointer is None else int(pointer)

    async def placement(self) -> PlacementDocument | None:
        generation = await self.generation()
        if generation is None:
            return None
        document = await read_document(self.redis, self.keys.placement_generation(generation))
        return None if document is None else PlacementDocument.model_validate_json(document.json)

    async def desired(self, node_id: str) -> set[str]:
        placement = await self.placement()
        assert placement is not None
        return {
            f"{held.model_id}/{held.layer}/{expert}"
            for node in placement.spec.holds
            if node.node_id == node_id
            for held in node.holds
            for expert in held.experts
        }

    async def status(self) -> PlacementStatus | None:
        document = await read_document(self.redis, self.keys.placement_status)
        return None if document is None else PlacementStatus.model_validate_json(document.json)

    async def condition(self, kind: str) -> bool:
        status = await self.status()
        return status is not None and any(c.type == kind and c.status for c in status.conditions)

    async def plans(self) -> list[PlanRecord]:
        records = []
        for plan_id in cast("list[bytes]", await self.redis.zrevrange(self.keys.plans, 0, -1)):
            stored = await self.redis.get(self.keys.plan(plan_id.decode()))
            if stored is not None:
                records.append(PlanRecord.model_validate_json(stored))
        return records


@dataclass
class Nodes:
    """Nodes that do what they are told, at once, and use the newest routes unless told not to."""

    cluster: Cluster
    stubborn: set[str] = field(default_factory=set)
    """These never switch their routes."""
    deaf: set[str] = field(default_factory=set)
    """These do no move."""
    refuse: Callable[[str, dict[str, Any]], str | None] = lambda node_id, move: None
    """Why a move fails; None: it succeeds."""
    done: list[tuple[str, str, str]] = field(default_factory=list)
    """(node, kind, member) in the order of doing."""
    attempts: list[dict[str, Any]] = field(default_factory=list)

    async def step(self, node_id: str) -> None:
        cluster = self.cluster
        if node_id not in self.deaf:
            for move in await cluster.orders(node_id):
                key = (move["move_id"], move["attempt"], move["plan_id"])
                if any((m["move_id"], m["attempt"], m["plan_id"]) == key for m in self.attempts):
                    continue
                self.attempts.append({**move, "node_id": node_id})
                reason = self.refuse(node_id, move)
                if reason is not None:
                    await cluster.report(node_id, move, ReportedState.FAILED, reason=reason)
                    continue
                member = f"{move['model_id']}/{move['layer']}/{move['expert']}"
                self.done.append((node_id, move["kind"], member))
                await cluster.report(node_id, move, ReportedState.SUCCEEDED)
        if node_id not in self.stubborn:
            version = await read_version(cluster.redis, cluster.keys.assignment(node_id))
            score = await cluster.redis.zscore(cluster.keys.node_leases, node_id)
            if score is not None and score > time.time() * 1000:
                await cluster.beat(node_id, assignment_version=version, generation=await cluster.generation())

    async def run(self) -> None:
        while True:
            for node_id in list(self.cluster.instances):
                await self.step(node_id)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def working(redis: Redis, settings: Settings | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """A worker in this process, stopped at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(settings or quick_settings(), redis, stop))
    try:
        yield task
    finally:
        stop.set()
        await task


@contextlib.asynccontextmanager
async def obeying(nodes: Nodes) -> AsyncIterator[None]:
    task = asyncio.create_task(nodes.run())
    try:
        yield
    finally:
        await end(task)
        if not task.cancelled():
            task.result()


async def until(condition: Callable[[], Any], seconds: float = 90.0, *, what: str = "the condition") -> None:
    """Wait for an async condition."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if await condition():
            return
        await asyncio.sleep(0.03)
    raise AssertionError(f"{what} did not come within {seconds:g} s")
