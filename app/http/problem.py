"""Every error leaves as application/problem+json (RFC 9457), whoever raised it; no stack trace ever does."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from pydantic_core import ErrorDetails
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import (
    BodyTooLarge,
    FieldError,
    InvalidRequest,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    ProblemError,
    Unavailable,
    UnsupportedMediaType,
)
from app.http.problem_log import PROBLEM_LOG
from app.observability.trace import trace_id
from app.schema import HTTP_URL_PATTERN, ID_PATTERN
from app.storage.writable import why_refused

MEDIA_TYPE = "application/problem+json"
LISTED_ERRORS = 100
"""Faults listed in one problem; `detail` tells how many there are."""

log = structlog.stdlib.get_logger(__name__)


class Fault(BaseModel):
    pointer: str = Field(description="JSON pointer into the body, or query:, header:, path: and a name.")
    detail: str
    code: str


class Problem(BaseModel):
    """The body of every error."""

    type: str = Field(description="/problems/ and a name.")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str = Field(description="The path asked for.")
    trace_id: str | None
    errors: list[Fault]


def problem_response(
    request: Request,
    *,
    status: int,
    slug: str,
    title: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    path: str = request.scope["path"]
    PROBLEM_LOG.note(status=status, slug=slug, detail=detail, method=request.method, path=path)
    body = {
        "type": f"/problems/{slug}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": path,
        "trace_id": trace_id(),
        "errors": [
            {"pointer": error.pointer, "detail": error.detail, "code": error.code}
            for error in errors[:LISTED_ERRORS]
        ],
    }
    # Echoed input may hold lone surrogates, which no UTF-8 JSON can carry.
    encoded = orjson.dumps(_printable(body))
    return Response(encoded, status, {**(headers or {}), "Cache-Control": "no-store"}, media_type=MEDIA_TYPE)


def respond(request: Request, problem: ProblemError) -> Response:
    return problem_response(
        request,
        status=problem.status,
        slug=problem.slug,
        title=problem.title,
        detail=problem.detail,
        errors=problem.errors,
        headers=problem.headers,
    )


def from_validation(errors: Sequence[ErrorDetails], *, prefix: str = "") -> ProblemError:
    """The problem pydantic's findings in a JSON body amount to: 400 where it is not JSON, else 422."""
    for error in errors:
        if error["type"] == "json_invalid":
            return MalformedRequest(
                f"the body is not JSON: {error.get('ctx', {}).get('error', error['msg'])}"
            )
    faults = [
        FieldError(prefix + pointer(error["loc"]), _sentence(error), error["type"].upper())
        for error in errors
    ]
    return InvalidRequest(_summary(faults), errors=faults)


def pointer(location: Sequence[int | str]) -> str:
    """A JSON pointer (RFC 6901) from the names and indices on the way to a fault."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def install(app: FastAPI) -> None:
    """Make `app` answer every exception with a problem."""
    for kind, handler in _handlers().items():
        app.add_exception_handler(kind, handler)


async def answer_exception(request: Request, error: Exception) -> Response | None:
    """As `install` has an application do it; None where nobody foresaw the exception."""
    for kind, handler in _handlers().items():
        if isinstance(error, kind):
            return await handler(request, error)
    return None


class UnexpectedErrorMiddleware:
    """Answers what nobody foresaw in FastAPI's part: Starlette's own handler of 500s would raise the error
    again afterwards, and the server print it a second time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:  # noqa: BLE001
            await answer_unexpected(error, scope, receive, send, started=started)


async def answer_unexpected(
    error: Exception, scope: Scope, receive: Receive, send: Send, *, started: bool
) -> None:
    """500 and the trace id alone, and the rest in the log; `error` again where the answer had begun."""
    log.error("unexpected error", method=scope["method"], path=scope["path"], exc_info=error)
    if started:
        raise error
    response = respond(Request(scope), ProblemError("something unexpected happened; see the logs"))
    await response(scope, receive, send)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return respond(request, error)


_BY_STATUS: Mapping[int, type[ProblemError]] = {
    kind.status: kind
    for kind in (
        MalformedRequest,
        NotFound,
        MethodNotAllowed,
        BodyTooLarge,
        UnsupportedMediaType,
        InvalidRequest,
    )
}


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = _BY_STATUS.get(error.status_code)
    detail = str(error.detail)
    if known is NotFound:
        detail = f"there is nothing at {request.url.path}"
    headers = dict(error.headers or {})
    if known is MethodNotAllowed:
        methods = ", ".join(_methods(request))
        detail = f"expected one of {methods}"
        headers["Allow"] = methods
    return problem_response(
        request,
        status=error.status_code,
        slug=known.slug if known else f"http-{error.status_code}",
        title=known.title if known else detail,
        detail=detail,
        headers=headers,
    )


def _methods(request: Request) -> list[str]:
    """Of all routes at this path: each of them knows only its own."""
    methods: set[str] = set()
    for route in getattr(request.app.state, "routes", request.app.routes):
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _on_invalid_parameters(request: Request, error: Exception) -> Response:
    """Faults in path, query and headers; bodies are read and judged by `app.http.json_body`."""
    assert isinstance(error, RequestValidationError)
    faults = [
        FieldError(":".join(map(str, found["loc"])), _sentence(found), str(found["type"]).upper())
        for found in error.errors()
    ]
    return respond(request, InvalidRequest(_summary(faults), errors=faults))


async def _on_storage(request: Request, error: Exception) -> Response:
    log.warning("storage failed", error=str(error), path=request.url.path)
    refused = why_refused(error)
    detail = "Redis does not answer as it should" if refused is None else f"Redis refuses writes: {refused}"
    return respond(request, Unavailable(detail, retry_after_seconds=2))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return respond(request, MalformedRequest("the connection ended before the body did"))


_PATTERNS = {
    ID_PATTERN: "expected 1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-', a letter or digit first and last",
    HTTP_URL_PATTERN: "expected http:// or https://, a host, perhaps a port and a path",
}
"""What the patterns that people meet most mean."""


def _sentence(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "string_pattern_mismatch":
        pattern = error.get("ctx", {}).get("pattern", "")
        return _PATTERNS.get(pattern, f"expected to match {pattern}")
    return error["msg"].removeprefix("Value error, ")


def _summary(faults: Sequence[FieldError]) -> str:
    first = faults[0]
    more = "" if len(faults) == 1 else f" (and {len(faults) - 1} more)"
    return f"{first.pointer or 'the body'}: {first.detail}{more}"


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _printable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_printable(part) for part in value]
    return value


def _handlers() -> Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]:
    return {
        ProblemError: _on_problem,
        HTTPException: _on_http_exception,
        RequestValidationError: _on_invalid_parameters,
        RedisError: _on_storage,
        ClientDisconnect: _on_disconnect,
    }
