"""The HTTP interface from which experts are fetched, the same for an origin and for a node.

GET /v1/experts                             what there is, in JSON
GET /v1/experts/{model_id}/{layer}/{expert} one expert as a safetensors file; ranges are understood
GET /healthz                                answered at once: peers measure the round trip with it
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agent.experts.address import EXPERTS_PATH, HEALTH_PATH
from agent.experts.content import Served
from agent.holdings import ExpertKey
from agent.serving.sending import ExpertResponse, Sends


class Shelf(Protocol):
    """What is served."""

    async def find(self, key: ExpertKey) -> Served | None:
        """None where it is not here, or not whole."""
        ...

    def manifest(self) -> Any:
        """What there is, as JSON can say it."""
        ...


def experts_routes(shelf: Shelf, sends: Sends, *, token: str | None = None) -> list[Route]:
    """`token`: what requests for experts must carry as bearer; None: nothing."""

    async def list_experts(request: Request) -> Response:
        return Response(msgspec.json.encode(shelf.manifest()), media_type="application/json")

    async def get_expert(request: Request) -> ASGIApp:
        parameters = request.path_params
        key = ExpertKey(parameters["model_id"], parameters["layer"], parameters["expert"])
        served = await shelf.find(key)
        if served is None:
            return PlainTextResponse(f"{key} is not here\n", 404)
        return ExpertResponse(served, sends)

    def guarded(answer: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Any]]:
        async def guard(request: Request) -> Any:
            if token is not None and not _authorized(request, token):
                return PlainTextResponse(
                    "expected the token as bearer\n", 401, {"WWW-Authenticate": "Bearer"}
                )
            return await answer(request)

        return guard

    return [
        Route(EXPERTS_PATH, guarded(list_experts), methods=["GET"]),
        Route(
            EXPERTS_PATH + "/{model_id}/{layer:int}/{expert:int}",
            guarded(get_expert),
            methods=["GET", "HEAD"],
        ),
        Route(HEALTH_PATH, _healthy, methods=["GET"]),
    ]


def experts_application(shelf: Shelf, sends: Sends, *, token: str | None = None) -> Starlette:
    return Starlette(routes=experts_routes(shelf, sends, token=token))


def _authorized(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(given.encode(), token.encode())


async def _healthy(_: Request) -> Response:
    return PlainTextResponse("ok\n")
