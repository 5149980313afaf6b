"""/docs and /openapi.json: made and compressed once, when they are first asked for."""

import asyncio
from typing import NamedTuple

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.http import conditional
from app.reference.page import POLICY, render
from app.storage.documents import EncodedDocument, encode_document

PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Reference(NamedTuple):
    contract: EncodedDocument
    page: EncodedDocument


async def get_contract(request: Request) -> Response:
    return conditional.respond(request, (await _reference(request.app)).contract)


async def get_page(request: Request) -> Response:
    response = conditional.respond(request, (await _reference(request.app)).page, headers=PAGE_HEADERS)
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    return response


routes = [
    Route("/openapi.json", get_contract, methods=["GET"]),
    Route("/docs", get_page, methods=["GET"]),
]


async def _reference(app: FastAPI) -> Reference:
    """Those who ask while it is being made wait for the same one."""
    making: asyncio.Task[Reference] | None = getattr(app.state, "reference", None)
    if making is None:
        making = app.state.reference = asyncio.create_task(asyncio.to_thread(_make, app))
    return await asyncio.shield(making)


def _make(app: FastAPI) -> Reference:
    contract = app.openapi()
    return Reference(
        encode_document(orjson.dumps(contract), uid="contract", generation=0),
        encode_document(render(contract).encode(), uid="docs", generation=0),
    )
