"""The HTTP interface from which experts are fetched, the same for an origin and for a node.

GET /v1/experts                             what there is, in JSON
GET /v1/experts/{model_id}/{layer}/{expert} one expert as a safetensors file; ranges are understood
GET /healthz                                answered at once: peers measure the round trip with it
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from moeplace_agent.experts.address import EXPERTS_PATH, HEALTH_PATH, expert_path
from moeplace_agent.experts.content import Served
from moeplace_agent.experts.signing import Verifier
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.serving.sending import ExpertResponse, Sends

logger = logging.getLogger(__name__)


class Shelf(Protocol):
    """What is served."""

    async def find(self, key: ExpertKey) -> Served | None:
        """None where it is not here, or not whole."""
        ...

    def manifest(self) -> Any:
        """What there is, as JSON can say it."""
        ...


def experts_routes(shelf: Shelf, sends: Sends, *, verifier: Verifier | None = None) -> list[Route]:
    """`verifier`: judges requests for experts; None: anybody may fetch."""

    async def list_experts(request: Request) -> Response:
        return _refused(request, EXPERTS_PATH) or Response(
            msgspec.json.encode(shelf.manifest()), media_type="application/json"
        )

    async def get_expert(request: Request) -> ASGIApp:
        parameters = request.path_params
        key = ExpertKey(parameters["model_id"], parameters["layer"], parameters["expert"])
        refused = _refused(request, expert_path(key))
        if refused is not None:
            return refused
        served = await shelf.find(key)
        if served is None:
            return PlainTextResponse(f"{key} is not here\n", 404)
        return ExpertResponse(key, served, sends)

    def _refused(request: Request, path: str) -> Response | None:
        if verifier is None:
            return None
        headers = request.headers
        fault = verifier.fault(request.method, path, headers.get("range"), headers.get("authorization", ""))
        if fault is None:
            return None
        asking = "somebody" if request.client is None else request.client.host
        logger.info("refused %s, which asked for %s: %s", asking, path, fault)
        return PlainTextResponse(f"{fault}\n", 401, {"WWW-Authenticate": verifier.challenge()})

    return [
        Route(EXPERTS_PATH, list_experts, methods=["GET"]),
        Route(
            EXPERTS_PATH + "/{model_id}/{layer:int}/{expert:int}",
            get_expert,
            methods=["GET", "HEAD"],
        ),
        Route(HEALTH_PATH, _healthy, methods=["GET"]),
    ]


def experts_application(shelf: Shelf, sends: Sends, *, verifier: Verifier | None = None) -> Starlette:
    return Starlette(routes=experts_routes(shelf, sends, verifier=verifier))


async def _healthy(_: Request) -> Response:
    return PlainTextResponse("ok\n")
