"""The HTTP interface for programs on the node itself: health, metrics, and an engine in another process.

GET  /healthz       200 while the agent runs, and how it is
GET  /readyz        200 once the node is registered, else 503
GET  /metrics       for Prometheus
GET  /v1/experts    what is held and where its file lies: what an engine loads when it starts
GET  /v1/routes     the assignment in use; 404 before the first
POST /v1/telemetry  a window in MessagePack, without instance_uid and sequence_number: the agent numbers it
POST /v1/calls      {node_id: [seconds, ...]}: how long expert calls took; "origin" is the origin
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from moeplace_agent.holdings import is_id
from moeplace_agent.latency import LatencyMeter
from moeplace_agent.metrics import CONTENT_TYPE, AgentMetrics
from moeplace_agent.node import NodeAgent
from moeplace_agent.serving.local_only import LocalOnly

MAX_WINDOW_BYTES = 2 << 20
"""The service takes no longer ones."""

MAX_CALLS_BYTES = 1 << 20

_Calls = dict[str, list[Annotated[float, msgspec.Meta(ge=0, le=3600)]]]


class _TooLarge(Exception):
    pass


def local_application(
    agent: NodeAgent, meter: LatencyMeter, metrics: AgentMetrics, held: Callable[[], Any]
) -> Starlette:
    """`held`: what `/v1/experts` answers."""
    begun = time.monotonic()

    async def health(_: Request) -> Response:
        return _json(
            {
                "node_id": agent.node_id,
                "uptime_seconds": round(time.monotonic() - begun, 3),
                "registrations": agent.registrations,
                "heartbeats": agent.heartbeats,
                "generation": agent.generation,
                "held_experts": len(agent.holdings),
                "used_bytes": agent.holdings.used_bytes,
                "capacity_bytes": agent.holdings.capacity_bytes,
                "windows_waiting": len(agent.outbox),
                "windows_dropped": agent.outbox.dropped,
                "failure": agent.failure,
            }
        )

    async def ready(_: Request) -> Response:
        if agent.registrations:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not registered yet\n", 503)

    async def expose(_: Request) -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    async def experts(_: Request) -> Response:
        return _json(held())

    async def routes(_: Request) -> Response:
        if agent.routes is None:
            return PlainTextResponse("there is no assignment yet\n", 404)
        return _json(agent.routes.assignment)

    async def telemetry(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/msgpack":
            return PlainTextResponse("expected application/msgpack\n", 415)
        try:
            window = msgspec.msgpack.decode(
                await _body(request, MAX_WINDOW_BYTES), type=dict[str, msgspec.Raw]
            )
        except _TooLarge:
            return PlainTextResponse(f"expected at most {MAX_WINDOW_BYTES} bytes\n", 413)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return PlainTextResponse(f"expected a window, a map with names as text: {error}\n", 422)
        missing = [name for name in ("model_id", "window", "tokens", "layers") if name not in window]
        if missing:
            return PlainTextResponse(f"{missing[0]}: is missing\n", 422)
        number = agent.submit(
            lambda uid, number: msgspec.msgpack.encode(
                {**window, "instance_uid": uid, "sequence_number": number}
            )
        )
        return _json({"sequence_number": number}, 202)

    async def calls(request: Request) -> Response:
        try:
            told = msgspec.json.decode(await _body(request, MAX_CALLS_BYTES), type=_Calls)
        except _TooLarge:
            return PlainTextResponse(f"expected at most {MAX_CALLS_BYTES} bytes\n", 413)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return PlainTextResponse(f"expected {{node_id: [seconds, ...]}}: {error}\n", 422)
        strange = next((name for name in told if not is_id(name)), None)
        if strange is not None:
            return PlainTextResponse(f"{strange!r:.80}: is not a node_id\n", 422)
        for name, durations in told.items():
            for seconds in durations:
                meter.called(name, seconds)
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/healthz", health),
            Route("/readyz", ready),
            Route("/metrics", expose),
            Route("/v1/experts", experts),
            Route("/v1/routes", routes),
            Route("/v1/telemetry", telemetry, methods=["POST"]),
            Route("/v1/calls", calls, methods=["POST"]),
        ],
        middleware=[Middleware(LocalOnly)],
    )


async def _body(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _TooLarge
        parts.append(part)
    return b"".join(parts)


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
