"""What the worker sees of a cluster: what is registered, who lives, who holds what, what is in force.

Each look costs one round trip; only what changed since the last one is read and decoded.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

import numpy as np
from pydantic import BaseModel
from redis.asyncio import Redis

from app.clusters.schemas import ClusterRecord
from app.errors import DamagedRecord
from app.models.schemas import ModelRecord
from app.nodes.schemas import NodeConflict, NodeRecord, NodeStatusRecord
from app.nodes.store import CONFLICT_SECONDS
from app.placements.schemas import PlacementDocument
from app.statistics.figures import fault_of_node, sound_settings, sound_status
from app.statistics.fleet import ExpertAddress, Fleet
from app.storage.clock import queue_now
from app.storage.documents import generation_of, read_document
from app.storage.keys import ClusterKeys
from app.storage.records import read_record
from solvers.problem import UInt8


@dataclass(frozen=True, eq=False)
class InForce:
    """The placement in force; `holds` uint8[N, E] is what it gives to nodes and models still registered."""

    generation: int
    document: PlacementDocument
    holds: UInt8


@dataclass(frozen=True, eq=False)
class Observation:
    """One look. `held` uint8[N, E]: what live nodes serve; the rows of nodes that are not live are empty.

    `now_milliseconds`: when it was, by the server's clock, which says who is `live`. `lately_lost`: nodes
    whose lease ran out less than a lease ago: they may go on routing as they did. `clocks_ahead`: seconds, of
    the nodes that sent their time. `conflicts`: of the nodes that two agents want to be.
    `obsolete`: what live nodes hold of models that were deleted, or registered anew without it; an expert of
    a model that was never registered is not among them, since its model may be about to be.
    `faults`: in words, what is stored and left out of this look: it cannot be read, or would spoil solves.
    `spec_version`, `held_version` and `live_version` rise whenever the part they name differs from before.
    """

    cluster: ClusterRecord
    fleet: Fleet
    statuses: Mapping[str, NodeStatusRecord]
    live: frozenset[str]
    lease_ends: Mapping[str, float]
    held: UInt8
    obsolete: Mapping[str, list[ExpertAddress]]
    in_force: InForce | None
    paused: bool
    active_plan: str | None
    commands_waiting: bool
    jobs_waiting: bool
    spec_version: int
    held_version: int
    live_version: int
    faults: tuple[str, ...] = ()
    now_milliseconds: int = 0
    lately_lost: frozenset[str] = frozenset()
    clocks_ahead: Mapping[str, float] = field(default_factory=dict)
    conflicts: Mapping[str, NodeConflict] = field(default_factory=dict)

    @property
    def recomputes(self) -> bool:
        """Whether the service may solve of its own accord."""
        return self.cluster.settings.automatic and not self.paused

    @property
    def live_mask(self) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """bool[N]"""
        return np.array([node_id in self.live for node_id in self.fleet.node_ids], np.bool_)

    @property
    def usable(self) -> frozenset[str]:
        """Nodes that may be given experts: alive and not draining."""
        return frozenset(node.node_id for node in self.fleet.nodes if not node.draining) & self.live


Record = TypeVar("Record", bound=BaseModel)


Judge = Callable[[str, Record], tuple[Record | None, str | None]]
"""From a record's id and the record: what to use of it, None to leave it out; and in words what is wrong."""


class _Decoded(Generic[Record]):
    """The records of a hash, each decoded once per change.

    judge: without one, a record that cannot be read is an error (`DamagedRecord`); with one, it is left out.
    faults: of each record that is not used as it is, in words.
    """

    def __init__(self, record: type[Record], key: str, judge: Judge[Record] | None = None) -> None:
        self._record = record
        self._key = key
        self._judge = judge
        self._raw: dict[str, bytes] = {}
        self.records: dict[str, Record] = {}
        self.faults: dict[str, str] = {}

    def update(self, raw: Mapping[bytes, bytes]) -> bool:
        """True when a record came, went or changed."""
        now = {key.decode(): value for key, value in raw.items()}
        changed = False
        for gone in self._raw.keys() - now.keys():
            self.records.pop(gone, None)
            self.faults.pop(gone, None)
            changed = True
        for key, value in now.items():
            if self._raw.get(key) != value:
                self._decode(key, value)
                changed = True
        self._raw = now
        return changed

    def _decode(self, key: str, value: bytes) -> None:
        record: Record | None
        fault: str | None = None
        try:
            record = read_record(self._record, value, self._key)
        except DamagedRecord as damage:
            if self._judge is None:
                raise
            record, fault = None, f"{key} is left out: {damage.detail}"
        if record is not None and self._judge is not None:
            record, fault = self._judge(key, record)
        self.records.pop(key, None)
        self.faults.pop(key, None)
        if record is not None:
            self.records[key] = record
        if fault is not None:
            self.faults[key] = fault


def _judge_node(_: str, node: NodeRecord) -> tuple[NodeRecord | None, str | None]:
    fault = fault_of_node(node)
    return (node if fault is None else None), fault


class Observer:
    """Looks at one cluster, again and again."""

    def __init__(self, redis: Redis, keys: ClusterKeys, *, lease_seconds: float = 0.0) -> None:
        """lease_seconds: how long nodes count as `lately_lost`."""
        self._redis = redis
        self._keys = keys
        self._lease_milliseconds = lease_seconds * 1000.0
        self._cluster = _Decoded(ClusterRecord, keys.cluster)
        self._models = _Decoded(ModelRecord, keys.models)
        self._deleted_models: frozenset[str] = frozenset()
        self._nodes = _Decoded(NodeRecord, keys.nodes, _judge_node)
        self._statuses = _Decoded(NodeStatusRecord, keys.node_status, sound_status)
        self._revision: bytes | None = None
        self._fleet = Fleet.of((), ())
        self._versions: dict[bytes, bytes] = {}
        self._members: dict[str, frozenset[bytes]] = {}
        self._rows: dict[str, UInt8] = {}
        self._obsolete: dict[str, list[ExpertAddress]] = {}
        self._held: UInt8 = np.zeros((0, 0), np.uint8)
        self._live: frozenset[str] = frozenset()
        self._document: PlacementDocument | None = None
        self._in_force: InForce | None = None
        self._spec_version = self._held_version = self._live_version = 0
        self._anew = False

    async def observe(self) -> Observation | None:
        """None when the cluster is gone. After a look that failed the next one reads everything."""
        try:
            return await self._observe()
        except BaseException:
            # What was compared may be remembered already, and what it stands for not read.
            self._anew = True
            raise

    async def _observe(self) -> Observation | None:
        keys = self._keys
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(keys.cluster)
        pipe.get(keys.revision)
        pipe.hgetall(keys.node_status)
        pipe.zrange(keys.node_leases, 0, -1, withscores=True)
        pipe.hgetall(keys.holdings_versions)
        pipe.hmget(keys.placement, ["generation", "digest"])
        pipe.hget(keys.control, "paused")
        pipe.get(keys.plan_active)
        pipe.llen(keys.plan_commands)
        pipe.llen(keys.jobs)
        queue_now(pipe, keys.node_leases)
        pipe.hgetall(keys.node_clocks)
        pipe.hgetall(keys.node_conflicts)
        answers = await pipe.execute()
        cluster, revision, statuses, leases, versions, pointer, paused, plan, commands, jobs = answers[:10]
        now, clocks, conflicts = answers[10:]
        if cluster is None:
            return None
        spec_changed = self._cluster.update({b"cluster": cluster})
        if self._anew:
            spec_changed = True
            self._versions = {}
        if revision != self._revision or spec_changed:
            spec_changed |= await self._read_spec()
            self._revision = revision
        if spec_changed:
            self._spec_version += 1
        self._statuses.update(statuses)
        ends = {node_id.decode(): float(end) for node_id, end in leases}
        live = frozenset(node_id for node_id in self._fleet.node_ids if ends.get(node_id, 0.0) > now)
        lately_lost = frozenset(
            node_id
            for node_id in self._fleet.node_ids
            if node_id not in live and ends.get(node_id, 0.0) + self._lease_milliseconds > now
        )
        live_changed = live != self._live
        self._live = live
        wanted_twice, of_conflicts = _conflicts(conflicts, keys, self._fleet.rows.keys(), now)
        self._live_version += live_changed
        await self._read_holdings(versions, anew=spec_changed, live_changed=live_changed)
        await self._read_placement(pointer[0], pointer[1], anew=spec_changed)
        self._anew = False
        record = self._cluster.records["cluster"]
        settings, of_settings = sound_settings(record.settings)
        if of_settings:
            record = record.model_copy(update={"settings": settings})
        return Observation(
            cluster=record,
            faults=(
                *of_settings,
                *self._nodes.faults.values(),
                *self._statuses.faults.values(),
                *of_conflicts,
            ),
            now_milliseconds=now,
            fleet=self._fleet,
            statuses=dict(self._statuses.records),
            live=live,
            lately_lost=lately_lost,
            lease_ends=ends,
            clocks_ahead={
                node_id: seconds
                for name, ahead in clocks.items()
                if (node_id := name.decode()) in live and (seconds := _number(ahead)) is not None
            },
            conflicts=wanted_twice,
            held=self._held,
            obsolete={node_id: found for node_id in sorted(live) if (found := self._obsolete.get(node_id))},
            in_force=self._in_force,
            paused=paused == b"1",
            active_plan=None if plan is None else plan.decode(),
            commands_waiting=commands > 0,
            jobs_waiting=jobs > 0,
            spec_version=self._spec_version,
            held_version=self._held_version,
            live_version=self._live_version,
        )

    async def _read_spec(self) -> bool:
        pipe = self._redis.pipeline(transaction=True)
        pipe.hgetall(self._keys.models)
        pipe.hgetall(self._keys.nodes)
        pipe.zrange(self._keys.deleted_models, 0, -1)
        models, nodes, deleted = cast(
            "tuple[dict[bytes, bytes], dict[bytes, bytes], list[bytes]]", await pipe.execute()
        )
        self._deleted_models = frozenset(model_id.decode() for model_id in deleted)
        # A model's record holds a digest for each expert, megabytes of them for a large model.
        changed = await asyncio.to_thread(self._models.update, models)
        changed |= self._nodes.update(nodes)
        if changed or self._anew:
            self._fleet = Fleet.of(self._models.records.values(), self._nodes.records.values())
            await asyncio.to_thread(self._fleet.row_of_members, ())  # builds the names of all experts once
        return changed

    async def _read_holdings(
        self, versions: Mapping[bytes, bytes], *, anew: bool, live_changed: bool
    ) -> None:
        changed = [name.decode() for name, version in versions.items() if self._versions.get(name) != version]
        gone = self._versions.keys() - versions.keys()
        self._versions = dict(versions)
        for name in gone:
            self._members.pop(name.decode(), None)
            self._rows.pop(name.decode(), None)
            self._obsolete.pop(name.decode(), None)
        if changed:
            pipe = self._redis.pipeline(transaction=False)
            for node_id in changed:
                pipe.smembers(self._keys.holdings(node_id))
            read = cast("list[set[bytes]]", await pipe.execute())
            for node_id, members in zip(changed, read, strict=True):
                self._members[node_id] = frozenset(members)
        if anew or changed:
            read_anew = list(self._members) if anew else changed
            self._rows |= await asyncio.to_thread(self._rows_of, read_anew)
            self._obsolete |= await asyncio.to_thread(self._obsolete_of, read_anew)
        if anew or changed or gone or live_changed:
            held = np.zeros(self._fleet.shape, np.uint8)
            for node_id in self._live:
                if node_id in self._rows:
                    held[self._fleet.row(node_id)] = self._rows[node_id]
            held.flags.writeable = False
            if held.shape != self._held.shape or not np.array_equal(held, self._held):
                self._held_version += 1
                self._held = held

    def _rows_of(self, node_ids: Iterable[str]) -> dict[str, UInt8]:
        return {node_id: self._fleet.row_of_members(self._members[node_id]) for node_id in node_ids}

    def _obsolete_of(self, node_ids: Iterable[str]) -> dict[str, list[ExpertAddress]]:
        registered_once = self._deleted_models | self._models.records.keys()
        return {
            node_id: [
                expert
                for expert in self._fleet.unknown_members(self._members[node_id])
                if expert.model_id in registered_once
            ]
            for node_id in node_ids
        }

    async def _read_placement(self, generation: bytes | None, digest: bytes | None, *, anew: bool) -> None:
        if generation is None:
            self._document = self._in_force = None
            return
        number = generation_of(generation, self._keys.placement)
        known = self._document
        if (
            known is None
            or known.metadata.generation != number
            or known.metadata.digest.encode() != (digest or b"")
        ):
            key = self._keys.placement_generation(number)
            encoded = await read_document(self._redis, key)
            if encoded is not None:
                self._document = await asyncio.to_thread(read_record, PlacementDocument, encoded.json, key)
            elif known is None or not anew:
                return
            else:  # superseded and pruned since the pointer was read: the next look finds what is in force
                number = known.metadata.generation
        elif not anew:
            return
        document = self._document
        assert document is not None
        holds = await asyncio.to_thread(
            self._fleet.matrix_of_holdings, document.spec.holds, ignore_unknown=True
        )
        holds.flags.writeable = False
        self._in_force = InForce(number, document, holds)


def _number(stored: bytes) -> float | None:
    """None for what is none: the node's next heartbeat replaces it."""
    try:
        return float(stored)
    except ValueError:
        return None


def _conflicts(
    stored: Mapping[bytes, bytes], keys: ClusterKeys, node_ids: Collection[str], now_milliseconds: int
) -> tuple[dict[str, NodeConflict], list[str]]:
    """Those of registered nodes that are not long over; and in words those that cannot be read."""
    found, faults = {}, []
    for name, value in stored.items():
        node_id = name.decode()
        if node_id not in node_ids:
            continue
        try:
            conflict = read_record(NodeConflict, value, keys.node_conflicts)
        except DamagedRecord as damage:
            faults.append(f"{node_id}: {damage.detail}")
            continue
        if now_milliseconds - conflict.at_milliseconds <= CONFLICT_SECONDS * 1000:
            found[node_id] = conflict
    return found, faults
