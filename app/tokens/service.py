"""What may be done to tokens. `scope` is a cluster's id, or `EVERYWHERE`."""

from bisect import bisect_right
from datetime import UTC, datetime, timedelta

from redis.asyncio import Redis

from app.access import store
from app.access.record import TokenRecord
from app.access.roles import Role
from app.access.secret import digest_of, make_token
from app.clusters.store import ensure_cluster, require_cluster
from app.errors import NotFound
from app.storage.clock import server_now
from app.storage.keys import EVERYWHERE
from app.tokens.schemas import IssuedToken, TokenList, TokenResource


async def issue(
    redis: Redis,
    scope: str,
    role: Role,
    *,
    node_id: str | None = None,
    note: str = "",
    expires_in_seconds: float | None = None,
    created_by: str,
    max_clusters: int,
) -> IssuedToken:
    """A new token; its text is in the answer and nowhere else. Creates the cluster where there is none, so
    that nodes can be given theirs before they start."""
    if scope != EVERYWHERE:
        await ensure_cluster(redis, scope, limit=max_clusters)
    name, text = make_token(scope)
    now = server_now()
    record = TokenRecord(
        token_id=name.token_id,
        role=role,
        cluster_id=None if scope == EVERYWHERE else scope,
        node_id=node_id,
        note=note,
        created_at=now,
        created_by=created_by,
        expires_at=None if expires_in_seconds is None else now + timedelta(seconds=expires_in_seconds),
        digest=digest_of(text).hex(),
    )
    await store.add(redis, scope, record)
    return IssuedToken(**dict(_resource(record, 0)), token=text)


async def revoke(redis: Redis, scope: str, token_id: str) -> None:
    """Processes that know it are told to forget it."""
    if not await store.remove(redis, scope, token_id):
        where = "of all clusters" if scope == EVERYWHERE else f"in cluster {scope}"
        raise NotFound(f"there is no token {token_id} {where}")


async def list_tokens(redis: Redis, scope: str, *, limit: int, after: str | None) -> TokenList:
    if scope != EVERYWHERE:
        await require_cluster(redis, scope)
    ids = await store.token_ids(redis, scope)
    start = bisect_right(ids, after) if after is not None else 0
    page = ids[start : start + limit]
    found = await store.read_page(redis, scope, page)
    return TokenList(
        tokens=[_resource(record, used) for record, used in found],
        next_after=page[-1] if start + limit < len(ids) else None,
    )


def _resource(record: TokenRecord, used: int) -> TokenResource:
    return TokenResource(
        token_id=record.token_id,
        role=record.role,
        cluster_id=record.cluster_id,
        node_id=record.node_id,
        note=record.note,
        created_at=record.created_at,
        created_by=record.created_by,
        expires_at=record.expires_at,
        last_used_at=datetime.fromtimestamp(used, UTC) if used else None,
    )
