"""What a heartbeat changes, and what its sender is told."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import msgspec
from redis.asyncio import Redis

from app.clusters.store import require_cluster
from app.config import Settings
from app.errors import Conflict, FieldError, InvalidRequest, Unavailable
from app.nodes import store
from app.nodes.holdings import MAX_MEMBERS, DigestMemory, holdings_digest, members_of
from app.nodes.schemas import (
    Directive,
    NodeStatusAnswer,
    NodeStatusRecord,
    NodeStatusReport,
)
from app.nodes.service import ATTEMPTS, intervals, lease, require_instance, require_node
from app.nodes.store import HoldingsChange, StoredNode, Written
from app.storage.clock import server_now
from app.storage.documents import generation_of, read_version
from app.storage.keys import ClusterKeys

INLINE_MEMBERS = 2000
"""More are made or hashed off the event loop."""

NOTHING = msgspec.msgpack.encode([])


@dataclass(frozen=True, slots=True)
class _Effect:
    record: NodeStatusRecord
    change: HoldingsChange
    announce: bool


@dataclass(frozen=True, slots=True)
class _Members:
    """MessagePack, each a list."""

    added: bytes = NOTHING
    removed: bytes = NOTHING


async def report_status(
    redis: Redis,
    settings: Settings,
    digests: DigestMemory,
    cluster_id: str,
    node_id: str,
    report: NodeStatusReport,
    *,
    sent_at: datetime | None = None,
) -> NodeStatusAnswer:
    """Take a heartbeat in: renew the lease, keep the status, change the holdings. sent_at: what the node's
    clock showed.

    `Conflict` where the node is registered with another instance, or where a later heartbeat came before;
    `InvalidRequest` where `holds_digest` is not that of `holds`. The same heartbeat again only renews the
    lease.
    """
    cluster = await require_cluster(redis, cluster_id)
    ahead = None if sent_at is None else (sent_at - server_now()).total_seconds()
    members = await _members(report)
    for _ in range(ATTEMPTS):
        before = await require_node(redis, cluster_id, node_id)
        require_instance(before, report.instance_uid)
        effect = _effect(before, report)
        keep = effect.change is HoldingsChange.KEEP
        written, version, count, ends = await store.write_status(
            redis,
            cluster_id,
            before,
            effect.record,
            change=effect.change,
            added=NOTHING if keep else members.added,
            removed=NOTHING if keep else members.removed,
            most=MAX_MEMBERS,
            lease_seconds=settings.node_lease_seconds,
            announce=effect.announce,
            ahead_seconds=ahead,
        )
        if written is Written.OK:
            break
        if written is Written.FULL:
            raise _too_many(f"the node would hold more than {MAX_MEMBERS} experts, it holds {count} now")
    else:
        raise Unavailable("other reports keep arriving for the same node", retry_after_seconds=1)

    directives = []
    if effect.record.full_state_due or not await _digest_agrees(
        redis, digests, cluster_id, cluster.uid, before, report, version, count
    ):
        directives.append(Directive.REPORT_FULL_STATE)
    keys = ClusterKeys(cluster_id)
    assignment = await read_version(redis, keys.assignment(node_id))
    if assignment is not None and assignment != report.assignment_version:
        directives.append(Directive.FETCH_ASSIGNMENT)
    if before.record.draining:
        directives.append(Directive.DRAIN)
    generation = cast("bytes | None", await redis.hget(keys.placement, "generation"))
    return NodeStatusAnswer(
        cluster_uid=cluster.uid,
        generation=None if generation is None else generation_of(generation, keys.placement),
        lease=lease(settings, ends),
        intervals=intervals(settings),
        directives=directives,
    )


async def _members(report: NodeStatusReport) -> _Members:
    change = report.holds_changed
    lists = [report.holds or []] if change is None else [report.holds or [], change.added, change.removed]
    if sum(len(entry.experts) for held in lists for entry in held) > INLINE_MEMBERS:
        return await asyncio.to_thread(_packed, report)
    return _packed(report)


def _packed(report: NodeStatusReport) -> _Members:
    encode = msgspec.msgpack.encode
    if report.holds is not None:
        members = members_of(report.holds, "/holds")
        if report.holds_digest is not None:
            digest = holdings_digest(member.encode() for member in members)
            if digest != report.holds_digest:
                detail = f"the digest of holds is {digest}"
                raise InvalidRequest(
                    f"/holds_digest: {detail}",
                    errors=[FieldError("/holds_digest", detail, "DIGEST_MISMATCH")],
                )
        return _Members(encode(members))
    if report.holds_changed is None:
        return _Members()
    added = members_of(report.holds_changed.added, "/holds_changed/added")
    removed = members_of(report.holds_changed.removed, "/holds_changed/removed")
    both = set(added).intersection(removed)
    if both:
        detail = f"{min(both)} is among those added too"
        raise InvalidRequest(
            f"/holds_changed/removed: {detail}",
            errors=[FieldError("/holds_changed/removed", detail, "ADDED_AND_REMOVED")],
        )
    return _Members(encode(added), encode(removed))


def _too_many(detail: str) -> InvalidRequest:
    pointer = "/holds_changed/added"
    return InvalidRequest(f"{pointer}: {detail}", errors=[FieldError(pointer, detail, "TOO_MANY_EXPERTS")])


def _effect(before: StoredNode, report: NodeStatusReport) -> _Effect:
    previous = before.status
    if previous is not None and previous.instance_uid != report.instance_uid:
        previous = None
    last = previous.sequence_number if previous else 0
    if report.sequence_number < last:
        raise Conflict(
            f"sequence_number {report.sequence_number} is stale: {last} came before it",
            errors=[FieldError("/sequence_number", f"expected at least {last + 1}", "STALE_SEQUENCE_NUMBER")],
        )
    lapsed = not before.alive
    if previous is not None and report.sequence_number == last:
        # A repeat: the holdings may have changed since by reports of moves, and must not be set back.
        due = previous.full_state_due or lapsed
        return _Effect(
            previous.model_copy(update={"full_state_due": due}), HoldingsChange.KEEP, announce=lapsed
        )
    if report.holds is not None:
        due, change = False, HoldingsChange.REPLACE
    else:
        due = previous is None or previous.full_state_due or lapsed or report.sequence_number != last + 1
        known = report.holds_changed is not None and not due
        change = HoldingsChange.EDIT if known else HoldingsChange.KEEP
    record = NodeStatusRecord(
        instance_uid=report.instance_uid,
        sequence_number=report.sequence_number,
        received_at=server_now(),
        state=report.state,
        reason=report.reason,
        generation=report.generation,
        assignment_version=report.assignment_version,
        moves_version=report.moves_version,
        holds_digest=report.holds_digest,
        full_state_due=due,
        latency=report.latency,
    )
    news = previous is None or any(
        getattr(previous, name) != getattr(record, name)
        for name in (
            "state",
            "generation",
            "assignment_version",
            "moves_version",
            "latency",
            "full_state_due",
        )
    )
    return _Effect(record, change, announce=news or lapsed)


async def _digest_agrees(
    redis: Redis,
    digests: DigestMemory,
    cluster_id: str,
    cluster_uid: str,
    node: StoredNode,
    report: NodeStatusReport,
    version: int,
    count: int,
) -> bool:
    """Whether the node holds what it is believed to hold; so where it does not tell a digest."""
    if report.holds_digest is None or report.holds is not None:
        return True
    uid = node.record.uid
    known = digests.get(cluster_uid, uid, version)
    if known is None:
        members, version = await store.read_holdings(redis, cluster_id, node.record.node_id)
        if count > INLINE_MEMBERS:
            known = await asyncio.to_thread(holdings_digest, members)
        else:
            known = holdings_digest(members)
        digests.put(cluster_uid, uid, version, known)
    return known == report.holds_digest
