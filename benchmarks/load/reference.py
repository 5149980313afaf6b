"""What the service is compared with: the least that an application doing the same could do.

`python -m benchmarks.load.reference NAME REDIS_URL PORT` serves one of them, on the server, loop, parser and
collector settings of the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.server.api_process import serve_application
from app.storage.client import open_client

STREAM = "reference:telemetry"
DOCUMENT = "reference:document"
HEADERS = {
    "ETag": '"u.1.0123456789abcdef"',
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
}
ANSWER = b'{"accepted_count":1,"duplicate":false,"partial_success":null}'
GROUP = 256


class Appends:
    """Bodies into a stream: what came while Redis was busy goes there together, answered after it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def append(self, body: bytes) -> None:
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((body, stored))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await stored

    async def _run(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            async with self._redis.pipeline(transaction=False) as pipe:
                for body, _ in group:
                    pipe.xadd(STREAM, {"w": body})
                await pipe.execute()
            for _, stored in group:
                if not stored.done():
                    stored.set_result(None)
        self._task = None


class Bare:
    """No framework: read the body, group-commit it, answer."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._appends: Appends | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self._appends = Appends(open_client(self._redis_url))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        message = await receive()
        body: bytes = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        assert self._appends is not None
        await self._appends.append(body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(ANSWER)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})


_Strict = ConfigDict(extra="forbid")
_Count = Annotated[int, Field(ge=0, le=2**32 - 1)]


class _Span(BaseModel):
    model_config = _Strict
    start_at: datetime
    end_at: datetime


class _Layer(BaseModel):
    model_config = _Strict
    layer: int
    counts: list[_Count]
    expert_ids: list[int] | None = None


class _Window(BaseModel):
    """The window as an application with pydantic would declare it."""

    model_config = _Strict
    model_id: str
    instance_uid: str
    sequence_number: int
    window: _Span
    tokens: _Count
    layers: list[_Layer]
    routes: list[dict[str, Any]] = []
    step_time_seconds: dict[str, float] | None = None


def validated(redis_url: str) -> ASGIApp:
    """A FastAPI route that validates the window with pydantic and stores it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_client(redis_url) as redis:
            app.state.appends = Appends(redis)
            yield

    app = FastAPI(lifespan=lifespan)

    async def post(request: Request, window: _Window) -> dict[str, Any]:
        await request.app.state.appends.append(window.model_dump_json().encode())
        return {"accepted_count": 1, "duplicate": False, "partial_success": None}

    app.post("/{path:path}")(post)
    return app


def plain(redis_url: str) -> ASGIApp:
    """Bare Starlette: /304 and /200, the latter with the bytes that it finds in Redis when it starts; with
    the headers that the service sends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_client(redis_url) as redis:
            app.state.body = await redis.get(DOCUMENT) or b"{}"
        yield

    async def not_modified(_: Any) -> Response:
        return Response(status_code=304, headers=HEADERS)

    async def found(request: Any) -> Response:
        return Response(request.app.state.body, media_type="application/json", headers=HEADERS)

    return Starlette(routes=[Route("/304", not_modified), Route("/200", found)], lifespan=lifespan)


APPLICATIONS: dict[str, Callable[[str], ASGIApp]] = {"bare": Bare, "validated": validated, "plain": plain}


def main() -> None:
    name, redis_url, port = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=2048)
    serve_application(APPLICATIONS[name](redis_url), listener)


if __name__ == "__main__":
    main()
