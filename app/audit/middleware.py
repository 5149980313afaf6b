"""Records what operators change: before the answer leaves, so that nothing that was answered is missing."""

import re
from dataclasses import dataclass
from typing import cast

import structlog
from fastapi import Request
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.guard import principal_of_scope
from app.access.rules import Rule, rule_of
from app.audit import store
from app.audit.schemas import MAX_CHANGES, AuditRecord
from app.http.durable import WRITES
from app.http.noted import Change, noted_changes
from app.observability.trace import trace_id
from app.placements.store import generation_in_force
from app.storage.clock import server_now
from app.storage.keys import EVERYWHERE

_ABOUT_CLUSTERS = frozenset({"put_cluster", "patch_cluster", "delete_cluster"})
"""Recorded with what concerns all clusters: the record of a cluster goes with it."""

_BEGUN = "moeplace.audited"
"""Key of the request's scope."""

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Begun:
    operation: str
    cluster_id: str | None
    generation: int | None


async def begin(scope: Scope) -> None:
    """Called once a route has authorised the request: where the request is an operator's and changes
    something, it will be recorded."""
    route = scope["route"]
    if scope["method"] not in WRITES or rule_of(scope["method"], route.path) is not Rule.OPERATE:
        return
    cluster_id = scope["path_params"].get("cluster_id")
    scope[_BEGUN] = _Begun(
        getattr(route, "operation_id", None) or route.name,
        cluster_id,
        await _generation(_redis(scope), cluster_id),
    )


async def audited(request: Request) -> None:
    """`begin`, for `Depends`."""
    await begin(request.scope)


class BeginAudit:
    """`begin`, around a plain route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await begin(scope)
        await self._app(scope, receive, send)


class AuditMiddleware:
    """Writes the entry when the answer begins. Refusals change nothing and are not recorded: or whoever has
    no token could push everything else out of the record."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in WRITES:
            await self._app(scope, receive, send)
            return

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start" and _BEGUN in scope:
                status = message["status"]
                if not 400 <= status < 500:
                    await _record(scope, scope[_BEGUN], status)
            await send(message)

        await self._app(scope, receive, send_recorded)


async def _record(scope: Scope, begun: _Begun, status: int) -> None:
    redis, principal = _redis(scope), principal_of_scope(scope)
    after: int | None = None
    try:
        after = await _generation(redis, begun.cluster_id)
    except (RedisError, OSError):
        log.warning("the generation after an operator's action is not known", operation=begun.operation)
    record = AuditRecord(
        at=server_now(),
        token_id=principal.token_id,
        role=principal.role,
        operation=begun.operation,
        method=scope["method"],
        path=scope["path"],
        cluster_id=begun.cluster_id,
        status=status,
        trace_id=trace_id(),
        generation_before=begun.generation,
        generation_after=after,
        changes=[_without_secrets(change) for change in noted_changes(scope)[:MAX_CHANGES]],
    )
    log.info("operator action", **record.model_dump(mode="json", exclude=_not_logged(record)))
    everywhere = begun.cluster_id is None or begun.operation in _ABOUT_CLUSTERS
    try:
        await store.append(redis, EVERYWHERE if everywhere else str(begun.cluster_id), record)
    except (RedisError, OSError) as error:
        log.error("an operator's action could not be recorded", operation=begun.operation, error=str(error))


def _not_logged(record: AuditRecord) -> set[str]:
    """The line has a time and a trace of its own; most operations change no setting."""
    return {"at", "trace_id"} if record.changes else {"at", "trace_id", "changes"}


def _without_secrets(change: Change) -> Change:
    """A URL may have a user's name and password in it."""
    old, new = (
        _USER_IN_URL.sub("", value) if isinstance(value, str) else value for value in (change.old, change.new)
    )
    return Change(pointer=change.pointer, old=old, new=new)


async def _generation(redis: Redis, cluster_id: str | None) -> int | None:
    return None if cluster_id is None else await generation_in_force(redis, cluster_id)


def _redis(scope: Scope) -> Redis:
    return cast(Redis, cast(Starlette, scope["app"]).state.redis)
