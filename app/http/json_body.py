"""JSON bodies: read within limits, judged strictly, and faults told by pointer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.errors import (
    BodyTooLarge,
    FieldError,
    InvalidRequest,
    MalformedRequest,
    UnsupportedMediaType,
)
from app.http.body import hold, read_body
from app.http.problem import from_validation
from app.http.state import settings_of
from app.schema import REQUEST

M = TypeVar("M", bound=BaseModel)

MERGE_PATCH = "application/merge-patch+json"

LARGE_BYTES = 64 << 10
"""Bodies larger than this are parsed off the event loop."""

VALUE_BYTES = 128
"""What a value takes, about, once it is parsed."""

MOST_FAULTS = 2000
"""A fault takes ten times as long to write as a value to parse. Of more, only the number is answered."""


class Limits(NamedTuple):
    """Of a route's body: bytes (as sent, and inflated), values in it, and names of fields in it.

    Values and names are counted before anything is made of them, by the commas and colons in the body: text
    with many of these counts for more than it is.
    """

    body_bytes: int = 256 << 10
    values: int = 10_000
    names: int = 10_000


USUAL = Limits()


async def read_json(request: Request, model: type[M], *, required: bool = True, limits: Limits = USUAL) -> M:
    """The body as `model`. Types are taken as they are: "5" is no number, 5 no string.

    Where it is not `required`, no body is as `{}`. Raises `BodyTooLarge` beyond the limits.
    """
    body = await _read(request, limits)
    if not body and not required:
        body = b"{}"
    else:
        _expect(request, "application/json")
    return await parse(model, body)


async def read_merge_patch(request: Request, *, limits: Limits = USUAL) -> dict[str, Any]:
    """The body, an object (RFC 7396); `MalformedRequest` or `InvalidRequest` otherwise."""
    body = await _read(request, limits)
    _expect(request, MERGE_PATCH, "application/json")
    try:
        patch = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(patch, dict):
        detail = "expected an object with the fields to change"
        raise InvalidRequest(f"the body: {detail}", errors=[FieldError("", detail, "NO_OBJECT")])
    return patch


def _expect(request: Request, *media_types: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in media_types:
        raise UnsupportedMediaType(
            f"Content-Type: expected {media_types[0]}, got {media_type[:100] or 'none'}",
            headers={"Accept": media_types[0]},
        )


async def _read(request: Request, limits: Limits) -> bytes:
    body = await read_body(request, settings_of(request), limit=limits.body_bytes)
    values, names = body.count(b",") + 1, body.count(b":")
    if values > limits.values:
        raise BodyTooLarge(f"the body has about {values} values, expected at most {limits.values}")
    if names > limits.names:
        raise BodyTooLarge(f"the body has about {names} names of fields, expected at most {limits.names}")
    if len(body) > LARGE_BYTES:
        hold(request, VALUE_BYTES * values)
    return body


async def parse(model: type[M], body: bytes) -> M:
    """`body` as `model`, judged strictly; `MalformedRequest` or `InvalidRequest` otherwise."""
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(judged, model, body)
    return judged(model, body)


def judged(model: type[M], body: bytes) -> M:
    """`parse`, at once."""
    try:
        return model.model_validate_json(body, strict=True, context=REQUEST)
    except ValidationError as error:
        if error.error_count() > MOST_FAULTS:
            raise InvalidRequest(
                f"the body has {error.error_count()} faults, too many to list them: it is not a "
                f"{model.__name__}"
            ) from None
        raise from_validation(error.errors(include_url=False, include_input=False)) from None


def json_body(
    model: type[M], *, required: bool = True, limits: Limits = USUAL
) -> Callable[[Request], Awaitable[M]]:
    """For `Depends`: the body of a FastAPI route, documented with `app.http.openapi.request_body`."""

    async def dependency(request: Request) -> M:
        return await read_json(request, model, required=required, limits=limits)

    return dependency
