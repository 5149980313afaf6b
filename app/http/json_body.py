"""JSON bodies: read within limits, judged strictly, and faults told by pointer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.errors import UnsupportedMediaType
from app.http.body import read_body
from app.http.problem import from_validation
from app.http.state import settings_of

M = TypeVar("M", bound=BaseModel)

LARGE_BYTES = 64 << 10
"""Bodies larger than this are parsed off the event loop."""


async def read_json(request: Request, model: type[M], *, required: bool = True) -> M:
    """The body as `model`. Types are taken as they are: "5" is no number, 5 no string.

    Where it is not `required`, no body is as `{}`.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    body = await read_body(request, settings_of(request))
    if not body and not required:
        body = b"{}"
    elif media_type != "application/json":
        raise UnsupportedMediaType(
            f"Content-Type: expected application/json, got {media_type[:100] or 'none'}",
            headers={"Accept": "application/json"},
        )
    return await parse(model, body)


async def parse(model: type[M], body: bytes) -> M:
    """`body` as `model`, judged strictly; `MalformedRequest` or `InvalidRequest` otherwise."""
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(_parse, model, body)
    return _parse(model, body)


def _parse(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)) from None


def json_body(model: type[M], *, required: bool = True) -> Callable[[Request], Awaitable[M]]:
    """For `Depends`: the body of a FastAPI route, documented with `app.http.openapi.request_body`."""

    async def dependency(request: Request) -> M:
        return await read_json(request, model, required=required)

    return dependency
