"""POST .../telemetry: a plain route, since it is the one called most."""

import time
from collections.abc import AsyncIterator
from typing import cast

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from app.access.guard import admit
from app.access.rules import rule_of
from app.errors import UnsupportedMediaType
from app.http.admission import admission_of
from app.http.body import RECEIVED_BYTES, declared_length, read_body, stream_body
from app.http.parameters import fields_of, header, path_id
from app.http.state import settings_of
from app.observability.metrics import TALLY, TELEMETRY_BYTES
from app.telemetry.account import Account, answer_of
from app.telemetry.contract import FRAGMENT, JSON, MSGPACK, NDJSON, PATH
from app.telemetry.decoding import Format
from app.telemetry.framing import MAX_WINDOW_BYTES, Framing, Lines, Values
from app.telemetry.intake import Intake

_MSGPACK_NAMES = {MSGPACK, "application/x-msgpack", "application/vnd.msgpack"}

_MEDIA_TYPES = {JSON, NDJSON, *_MSGPACK_NAMES}

FORMAT_VERSION = "1"

TRUSTED_SECONDS = 1.0
"""How long the client of a stream is taken for who it was."""

_RULE = rule_of("POST", PATH)

_WHOLE_BYTES = 1 << 20
"""A MessagePack body of known length up to this is read at once; others are taken as they come."""

_WHOLE_CODED_BYTES = 64 << 10
"""The same for one that is to be inflated."""


def intake_of(request: Request) -> Intake:
    """`app.state.intake`, set when the application starts."""
    return cast(Intake, request.app.state.intake)


async def post_telemetry(request: Request) -> ASGIApp:
    try:
        return answer_of(await _post(request))
    finally:
        TALLY.count(TELEMETRY_BYTES, request.scope.get(RECEIVED_BYTES, 0))


async def _post(request: Request) -> Account:
    scope = request.scope
    intake = intake_of(request)
    place = scope["path_params"]
    cluster_id, node_id = place["cluster_id"], place["node_id"]
    known = intake.knows(cluster_id, node_id)
    if not known:
        path_id(request, "cluster_id")
        path_id(request, "node_id")
    media_type = header(request, b"content-type") or ""
    if media_type not in _MEDIA_TYPES:
        media_type = _media_type(media_type)
    if not known:
        await intake.require_node(cluster_id, node_id)
    settings = settings_of(request)
    if media_type == NDJSON:
        pieces = _accounted(request, stream_body(request, settings), lines := Lines())
        return await intake.take_stream(cluster_id, node_id, pieces, lines, Format.JSON)
    form, limit = Format.JSON, MAX_WINDOW_BYTES
    if media_type != JSON:
        form, limit = Format.MSGPACK, 2 * MAX_WINDOW_BYTES
        length = declared_length(request)
        coded = b"content-encoding" in fields_of(scope)
        if length is None or length > (_WHOLE_CODED_BYTES if coded else _WHOLE_BYTES):
            pieces = _accounted(request, stream_body(request, settings), values := Values())
            return await intake.take_stream(cluster_id, node_id, pieces, values, form)
    # No name for the body: whoever takes it is to be the only one who has it.
    return await intake.take_whole(cluster_id, node_id, await read_body(request, settings, limit=limit), form)


def _media_type(given: str) -> str:
    """Without its parameters, in small letters."""
    media_type, _, parameters = given.partition(";")
    media_type = media_type.strip().lower()
    if parameters:
        _require_version(parameters)
    if media_type not in _MEDIA_TYPES:
        raise UnsupportedMediaType(
            f"Content-Type: expected {JSON}, {NDJSON} or {MSGPACK}, got {media_type[:100] or 'none'}",
            headers={"Accept": f"{JSON}, {NDJSON}, {MSGPACK}"},
        )
    return media_type


def _require_version(parameters: str) -> None:
    """`version=1` is the format there is; whoever sends another is told so instead of being misread."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "version" and value.strip().strip('"') != FORMAT_VERSION:
            raise UnsupportedMediaType(
                f"Content-Type: version is {value.strip()[:20]!r}, expected {FORMAT_VERSION}"
            )


async def _accounted(
    request: Request, pieces: AsyncIterator[bytes], framing: Framing
) -> AsyncIterator[bytes]:
    """The pieces; what the framing keeps of them is accounted for as held. A stream may go on for ever, so
    its client is asked for its token again and again: it may have expired, or been revoked."""
    admission = admission_of(request)
    held = 0
    trusted_until = time.monotonic() + TRUSTED_SECONDS
    async for piece in pieces:
        if time.monotonic() > trusted_until:
            await admit(request.scope, _RULE)
            trusted_until = time.monotonic() + TRUSTED_SECONDS
        yield piece
        if admission:
            admission.hold(request.scope, framing.buffered - held)
            held = framing.buffered


routes = [Route(PATH, post_telemetry, methods=["POST"], name="post_telemetry")]
openapi = FRAGMENT
