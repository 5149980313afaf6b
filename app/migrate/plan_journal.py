"""What is written down of a cluster's plans: records, progress and orders, always in one transaction.

No node has an order that is not known of, and whoever takes over finds the plan as its nodes know it.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.migrate.execution import Execution
from app.migrate.orders import encode_orders
from app.migrate.plan_records import outdated_plans, queue_forgetting, queue_progress
from app.migration_plans.schemas import PlanRecord, ReleasedMove
from app.nodes.schemas import NodeStatusRecord
from app.storage import topics
from app.storage.clock import server_now
from app.storage.documents import EncodedDocument, queue_document
from app.storage.fenced import fenced
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.records import record_json
from migrations.states import PlanState

RECORD_SECONDS: Final = 1.0
"""How often at most a plan's record is written while only counts change."""


class PlanJournal:
    """One cluster's, for as long as one lease lasts."""

    def __init__(self, redis: Redis, keys: ClusterKeys, lease: Lease) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease
        self._orders: dict[str, tuple[str, int, list[ReleasedMove]]] = {}
        self._versions: dict[str, str] = {}
        self._attempts = 0
        self._recorded_at = 0.0
        self._recorded: tuple[PlanState, str | None] | None = None
        self._counts_changed = False

    def follow(self, execution: Execution) -> None:
        """This plan, stored as it is now, is the one being carried out."""
        self._recorded = (execution.state, execution.record.reason)
        self._recorded_at = 0.0

    def goes_by_newest(self, node_id: str, status: NodeStatusRecord | None) -> bool:
        """The node has read its newest orders and does nothing of older ones any more, and what it holds is
        known as of when it said so."""
        version = self._versions.get(node_id)
        if version is None or status is None or status.full_state_due:
            return False
        return status.moves_version == version

    async def enter(self, record: PlanRecord) -> None:
        """A new plan, and the one being carried out where it is RUNNING; the oldest plans are forgotten."""
        body = await asyncio.to_thread(record_json, record)
        outdated = await outdated_plans(self._redis, self._keys)
        keys = self._keys

        def queue(pipe: Pipeline) -> None:
            pipe.zadd(keys.plans, {record.plan_id: record.created_at.timestamp()})
            pipe.set(keys.plan(record.plan_id), body)
            queue_forgetting(pipe, keys, outdated)
            if record.state is PlanState.RUNNING:
                pipe.set(keys.plan_active, record.plan_id)
            topics.announce(pipe, keys, topics.plan(record.plan_id), topics.STATUS)

        await fenced(self._redis, self._lease, queue)

    async def end(self, requested: PlanRecord, state: PlanState, reason: str) -> None:
        """Of a plan that was asked for, and need not be made."""
        update = {"state": state, "reason": reason, "updated_at": server_now()}
        record = requested.model_copy(update=update)

        def queue(pipe: Pipeline) -> None:
            pipe.set(self._keys.plan(record.plan_id), record_json(record))
            topics.announce(pipe, self._keys, topics.plan(record.plan_id))

        await fenced(self._redis, self._lease, queue)

    async def save(
        self,
        execution: Execution | None,
        orders: Mapping[str, list[ReleasedMove]],
        *,
        uid: str,
        generation: int,
        now: datetime,
        commands: int,
    ) -> None:
        """Store what changed of the plan and of the orders to nodes, and take `commands` obeyed commands off
        their queue. `uid` and `generation` are those that orders carry."""
        keys = self._keys
        changed = {
            node_id: moves
            for node_id, moves in orders.items()
            if self._orders.get(node_id) != (uid, generation, moves)
        }
        self._attempts += 1
        mark = f"{self._lease.token}-{self._attempts}"
        documents: dict[str, EncodedDocument] = {
            node_id: encode_orders(uid, generation, node_id, moves, mark)
            for node_id, moves in changed.items()
        }
        progress = {}
        record: bytes | None = None
        shown = None
        if execution is not None:
            progress = {move_id: execution.progress[move_id] for move_id in execution.changed}
            shown = (execution.state, execution.record.reason)
            self._counts_changed |= bool(progress)
            due = time.monotonic() - self._recorded_at >= RECORD_SECONDS
            if shown != self._recorded or (self._counts_changed and due):
                snapshot = execution.snapshot(now)
                record = await asyncio.to_thread(record_json, snapshot)
        if not (documents or progress or record is not None or commands):
            return

        def queue(pipe: Pipeline) -> None:
            announced = [topics.moves(node_id) for node_id in documents]
            for node_id, document in documents.items():
                queue_document(pipe, keys.moves(node_id), document)
            if execution is not None:
                plan_id = execution.record.plan_id
                queue_progress(pipe, keys, plan_id, progress)
                if record is not None:
                    pipe.set(keys.plan(plan_id), record)
                    announced += [topics.plan(plan_id), topics.STATUS]
                if execution.ended:
                    pipe.delete(keys.plan_active)
            if commands:
                pipe.ltrim(keys.plan_commands, commands, -1)
            topics.announce(pipe, keys, *announced)

        await fenced(self._redis, self._lease, queue)
        for node_id, moves in changed.items():
            self._orders[node_id] = (uid, generation, moves)
            self._versions[node_id] = documents[node_id].version
        for node_id in self._orders.keys() - orders.keys():
            del self._orders[node_id], self._versions[node_id]
        if execution is not None:
            execution.saved()
            if record is not None:
                self._recorded, self._recorded_at = shown, time.monotonic()
                self._counts_changed = False
