"""The API as an ASGI application."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.metadata import version
from typing import Any, cast

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette_compress import CompressMiddleware

from app.access.mode import authentication
from app.audit.middleware import AuditMiddleware
from app.config import Settings
from app.http import problem
from app.http.admission import Admission
from app.http.document import DocumentCache
from app.http.edge import EdgeMiddleware
from app.http.own_writes import OwnWritesMiddleware
from app.http.state import AtHand
from app.http.versions import Versions
from app.http.waiting import Waiters
from app.observability import metrics
from app.routes import FAST, include_routes
from app.runtime.cancellation import end
from app.storage import clock
from app.storage.client import open_client
from app.storage.documents import IDENTITY_LIMIT
from app.storage.durable import DiskSync, require_durability
from app.telemetry.intake import Intake

COMPRESS_FROM_BYTES = IDENTITY_LIMIT + 1
"""Documents bring their codings along, each with its own tag; up to the limit they stay as they are."""

DESCRIPTION = """Decides which experts of Mixture-of-Experts models each node of a fleet keeps in its memory.

Nodes post what their tokens activated, poll the placement and report the moves they make. Errors are problems
(RFC 9457); documents carry entity tags; `Prefer: wait=N` with `If-None-Match` holds a request until the
document changes.
"""


class Service(FastAPI):
    """An application behind an edge that FastAPI's own middleware is behind too: requests that are answered
    there do not pass through what FastAPI and Starlette do for all others."""

    def __init__(self, edge: Callable[[ASGIApp], ASGIApp], **settings: Any) -> None:
        super().__init__(**settings)
        self._edge = edge(super().__call__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._edge(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """The application; it opens its connections to `settings.redis_url` when it starts."""
    waiters = Waiters(settings.max_waiters)
    admission = Admission(waiters, max_requests=settings.max_requests, max_bytes=settings.max_held_bytes)
    app = Service(
        partial(EdgeMiddleware, admission=admission, fast=FAST, durable=settings.durable),
        title="moeplace",
        version=version("moeplace"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        # `app.reference` answers in their place, from what this process has.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect would name the host as this process sees it, and clients repeat no body behind it.
        redirect_slashes=False,
        middleware=[
            Middleware(problem.UnexpectedErrorMiddleware),  # before Starlette's own gets to it
            Middleware(CompressMiddleware, minimum_size=COMPRESS_FROM_BYTES, brotli=False),
            Middleware(OwnWritesMiddleware),
            Middleware(AuditMiddleware),
        ],
    )
    app.state = cast(State, AtHand())
    app.state.settings = settings
    app.state.waiters = waiters
    app.state.admission = admission
    problem.install(app)
    include_routes(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    if settings.redis_url is None:
        raise RuntimeError(
            "redis_url: the API needs one; `moeplace serve` passes that of its embedded server"
        )
    metrics.announce_build()
    async with (
        open_client(settings.redis_url) as redis,
        open_client(settings.redis_url, blocking=True) as pubsub_client,
        open_client(settings.redis_url) as probing,
    ):
        app.state.redis = redis
        app.state.probing_redis = probing
        if settings.durable:
            await require_durability(redis)
        app.state.disk = DiskSync(redis)
        app.state.authentication = asked = authentication(settings, redis)
        app.state.waiters.observe(asked.notified)
        app.state.document_cache = DocumentCache()
        app.state.versions = versions = Versions(redis)
        app.state.waiters.observe(versions.notified)
        app.state.intake = intake = Intake(redis, settings)
        await clock.first_measure(redis)
        tasks = [
            asyncio.create_task(app.state.waiters.listen(pubsub_client)),
            asyncio.create_task(clock.keep_clock(redis, clock.process_name("api"))),
        ]
        try:
            yield
        finally:
            await intake.stop()
            await end(*tasks)
