"""Answers made of schemas."""

import asyncio
import hashlib
from collections.abc import Mapping

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.http import conditional
from app.storage.documents import EncodedDocument, encode_document

LARGE_BYTES = 64 << 10

PAGE_BYTES = 2 << 20
"""A page of a list ends with the entry that fills it, however many were asked for: entries may be large."""


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
    request: Request, body: bytes, *, uid: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A resource kept as plain JSON, with the entity tag and codings of an encoded document; or 304."""
    return conditional.respond(request, await _encode(body, uid), headers=headers)


def version_of(body: bytes, uid: str) -> str:
    """The version `versioned_answer` gives such a resource. It belongs to no generation."""
    return f"{uid}.0.{hashlib.sha256(body).hexdigest()[:16]}"


async def _encode(body: bytes, uid: str) -> EncodedDocument:
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(encode_document, body, uid=uid, generation=0)
    return encode_document(body, uid=uid, generation=0)
