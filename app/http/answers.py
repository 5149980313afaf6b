"""Answers made of schemas."""

import asyncio
from collections.abc import Mapping

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.http import conditional
from app.storage.documents import EncodedDocument, encode_document

LARGE_BYTES = 64 << 10


def json_answer(body: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Not to be kept by anybody: it tells how things are now."""
    return Response(
        body.model_dump_json(),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )


async def large_json_answer(body: BaseModel) -> Response:
    """For lists, which may be large: encoded off the event loop."""
    encoded = await asyncio.to_thread(body.model_dump_json)
    return Response(encoded, 200, {"Cache-Control": "no-store"}, media_type="application/json")


async def versioned_answer(
    request: Request,
    body: bytes,
    *,
    uid: str,
    generation: int = 0,
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    """A resource kept as plain JSON, with the entity tag and codings of an encoded document."""
    document = await _encode(body, uid, generation)
    return conditional.respond(request, document, headers=headers, status=status)


async def _encode(body: bytes, uid: str, generation: int) -> EncodedDocument:
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(encode_document, body, uid=uid, generation=generation)
    return encode_document(body, uid=uid, generation=generation)
