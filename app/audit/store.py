"""The record of what operators did, in Redis. `scope` is a cluster's id, or `EVERYWHERE`."""

from typing import cast

from redis.asyncio import Redis

from app.audit.schemas import AuditEntry, AuditRecord
from app.storage.keys import ClusterKeys
from app.storage.records import read_record, record_json

KEPT = 10_000
"""Entries of a cluster, and of all; a few more stay for a while."""


async def append(redis: Redis, scope: str, record: AuditRecord) -> None:
    entry: dict[str, str] = {"e": record_json(record).decode()}
    await redis.xadd(ClusterKeys(scope).audit, entry, maxlen=KEPT, approximate=True)  # type: ignore[arg-type]


async def read_page(
    redis: Redis, scope: str, *, limit: int, before: str | None
) -> tuple[list[AuditEntry], str | None]:
    """Newest first, and `before` of the next page."""
    key = ClusterKeys(scope).audit
    if before is not None and not before.strip("0-"):
        return [], None  # nothing is before the lowest id, and Redis refuses to look
    found = cast(
        "list[tuple[bytes, dict[bytes, bytes]]]",
        await redis.xrevrange(key, "+" if before is None else f"({before}", "-", count=limit + 1),
    )
    entries = [
        AuditEntry(audit_id=audit_id.decode(), **read_record(AuditRecord, fields[b"e"], key).model_dump())
        for audit_id, fields in found[:limit]
    ]
    return entries, entries[-1].audit_id if len(found) > limit else None
