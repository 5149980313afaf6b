"""Reading a request's body within limits, whatever its coding and however slowly it comes.

Inflating stops at the limit, so that a few bytes that stand for gigabytes cost no more than the limit; and a
client that sends too slowly is given up.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Protocol

import zstandard
from isal import igzip_lib
from starlette.requests import Request
from starlette.types import Scope

from app.config import Settings
from app.errors import BodyTooLarge, MalformedRequest, RequestTimedOut, UnsupportedMediaType
from app.http.admission import admission_of
from app.http.extensions import ARRIVED
from app.http.parameters import fields_of, header
from app.http.receiving import Receiving

IDLE_SECONDS = 15.0
"""A client that sends nothing for this long in the middle of a body is given up."""

BODY_SECONDS = 60.0
"""A body that is read as a whole must be here within this time."""

SLOWEST_BYTES_PER_SECOND = 4096
"""A body that is read as a whole must come at this rate after `IDLE_SECONDS`: what has come of it takes room
from others."""

STREAM_IDLE_SECONDS = 120.0
"""The same as `IDLE_SECONDS`, for streams: their clients wait for the next window."""

STREAM_EXPANSION = 200
"""A stream may go on for ever, so what bounds its inflated size is a multiple of what was sent."""

RECEIVED_BYTES = "moeplace.received_bytes"
"""Key of the request's scope: bytes of the body so far, as sent."""

_NONE: Mapping[str, Callable[[Scope], bytes | None]] = {}
_PIECE_BYTES = 256 << 10
_ISAL_ERROR: type[Exception] = vars(igzip_lib)["IsalError"]  # its stub says it's an instance
_INLINE_SENT_BYTES = 64 << 10
_INLINE_INFLATED_BYTES = 512 << 10
# A zstd block of 4 bytes stands for at most 128 KiB, and the library inflates all it is given at once: fed
# in steps of this size it makes at most 8 MiB before the limit is looked at.
_ZSTD_STEP_BYTES = 256
_ZSTD_WINDOW_BYTES = 8 << 20


class _Inflater(Protocol):
    def pieces(self, sent: bytes) -> Iterator[bytes]:
        """What the next bytes stand for, in pieces of bounded size."""

    def finish(self) -> None:
        """Raise unless the coding ended where the body did."""


class _Identity:
    def pieces(self, sent: bytes) -> Iterator[bytes]:
        if sent:
            yield sent

    def finish(self) -> None:
        return


class _Gzip:
    """Any number of gzip members, one after another."""

    def __init__(self) -> None:
        self._member = self._open()
        self._fresh = True

    @staticmethod
    def _open() -> igzip_lib.IgzipDecompressor:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def pieces(self, sent: bytes) -> Iterator[bytes]:
        while True:
            if self._member.eof:
                sent = self._member.unused_data + sent
                if not sent:
                    return
                self._member = self._open()
            if sent:
                self._fresh = False
            try:
                piece = self._member.decompress(sent, _PIECE_BYTES)
            except (_ISAL_ERROR, EOFError, OSError, ValueError) as error:
                raise MalformedRequest("the body is not gzip, as Content-Encoding says it is") from error
            sent = b""
            if piece:
                yield piece
            if self._member.eof:
                if not self._member.unused_data:
                    return
            elif self._member.needs_input or not piece:
                return

    def finish(self) -> None:
        if self._fresh or not self._member.eof:
            raise MalformedRequest("the gzip body is truncated")


class _Zstd:
    """Any number of zstd frames, one after another."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._frames = 0

    def pieces(self, sent: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(sent):
            step = sent[at : at + _ZSTD_STEP_BYTES]
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
                self._frames += 1
            try:
                piece = self._frame.decompress(step)
            except zstandard.ZstdError as error:
                raise MalformedRequest("the body is not zstd, as Content-Encoding says it is") from error
            at += len(step)
            if self._frame.eof:
                at -= len(self._frame.unused_data)
                self._frame = None
            if piece:
                yield piece

    def finish(self) -> None:
        if self._frames == 0 or self._frame is not None:
            raise MalformedRequest("the zstd body is truncated")


def _inflater(request: Request) -> _Inflater:
    coding = (header(request, b"content-encoding") or "identity").strip().lower()
    if coding in ("", "identity"):
        return _Identity()
    if coding in ("gzip", "x-gzip"):
        return _Gzip()
    if coding == "zstd":
        return _Zstd()
    raise UnsupportedMediaType(
        f"Content-Encoding: is {coding[:60]!r}, expected gzip, zstd or identity",
        headers={"Accept-Encoding": "gzip, zstd"},
    )


class _Sent:
    """The body as it comes, without its transfer coding; what has come is accounted for as held."""

    def __init__(self, request: Request, idle_seconds: float, whole_seconds: float) -> None:
        self.admission = admission_of(request)
        self._receiving = self.admission.receiving if self.admission else Receiving()
        self._request = request
        self._idle_seconds = idle_seconds
        self._whole_seconds = whole_seconds
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._received = 0
        self._more = True

    async def next(self) -> bytes | None:
        """The next chunk, not empty; None at the end."""
        scope = self._request.scope
        while self._more:
            until = min(self._clock() + self._idle_seconds, self._due())
            try:
                message = await self._receiving.next(self._request.receive, until)
            except TimeoutError:
                raise self._late() from None
            if message["type"] == "http.disconnect":
                raise MalformedRequest("the connection was closed in the middle of the body")
            chunk: bytes = message.get("body", b"")
            self._more = message.get("more_body", False)
            if chunk:
                self._received += len(chunk)
                scope[RECEIVED_BYTES] = self._received
                if self.admission:
                    self.admission.hold(scope, len(chunk))
                return chunk
        return None

    def _due(self) -> float:
        """When the whole must be here."""
        if self._whole_seconds == math.inf:
            return math.inf
        allowed = IDLE_SECONDS + self._received / SLOWEST_BYTES_PER_SECOND
        return self._began + min(self._whole_seconds, allowed)

    def _late(self) -> RequestTimedOut:
        now = self._clock()
        if now >= self._due():
            return RequestTimedOut(
                f"the body did not come within {now - self._began:.0f} s: it must at "
                f"{SLOWEST_BYTES_PER_SECOND} bytes/s and within {self._whole_seconds:g} s"
            )
        return RequestTimedOut(f"nothing of the body came for {self._idle_seconds:g} s")


def declared_length(request: Request) -> int | None:
    """Content-Length, or None where the client does not know it in advance."""
    value = fields_of(request.scope).get(b"content-length", b"")
    return int(value) if value.isdigit() else None


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes")


async def read_body(request: Request, settings: Settings, *, limit: int | None = None) -> bytes:
    """The whole body, inflated; neither as sent nor inflated larger than `limit`, where that is less than the
    settings allow.

    Raises `BodyTooLarge`, `RequestTimedOut`, `MalformedRequest` (broken coding, closed connection) or
    `UnsupportedMediaType` (unknown coding).
    """
    inflater = _inflater(request)
    longest = min(settings.max_body_bytes, limit or settings.max_body_bytes)
    sent = _arrived(request, longest)
    if sent is None:
        sent = await _received(request, longest)
    if isinstance(inflater, _Identity):
        return sent
    largest = min(settings.max_inflated_body_bytes, limit or settings.max_inflated_body_bytes)
    out = _Whole(inflater, sent, largest)
    if len(sent) > _INLINE_SENT_BYTES or not out.take(_INLINE_INFLATED_BYTES):
        # It waits for a thread. What is inflated of many that wait would else be counted too late.
        waiting = out.size
        hold(request, waiting)
        await asyncio.to_thread(out.take, largest + 1)
        hold(request, -waiting)
    body = out.body()
    hold(request, len(body))
    return body


def _arrived(request: Request, limit: int) -> bytes | None:
    """The body as it was sent, where all of it came with the head: nobody has to wait for it then."""
    arrived = request.scope.get("extensions", _NONE).get(ARRIVED)
    body: bytes | None = arrived(request.scope) if arrived else None
    if body is None:
        return None
    if len(body) > limit:
        raise _too_large(limit)
    request.scope[RECEIVED_BYTES] = len(body)
    hold(request, len(body))
    return body


async def _received(request: Request, limit: int) -> bytes:
    """The body as it is sent."""
    length = declared_length(request)
    if length is not None and length > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    sending = _Sent(request, IDLE_SECONDS, BODY_SECONDS)
    while (chunk := await sending.next()) is not None:
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        parts.append(chunk)
    if sending.admission:
        sending.admission.resume()
    return parts[0] if len(parts) == 1 else b"".join(parts)


def hold(request: Request, number: int) -> None:
    """Account for bytes that are kept until the request is answered; raises `Unavailable` where all requests
    together keep too many."""
    admission = admission_of(request)
    if admission:
        admission.hold(request.scope, number)


class _Whole:
    """A body being inflated, in one or several goes."""

    def __init__(self, inflater: _Inflater, sent: bytes, limit: int) -> None:
        self._inflater = inflater
        self._pieces = inflater.pieces(sent)
        self._limit = limit
        self._parts: list[bytes] = []
        self.size = 0
        """Bytes inflated so far."""

    def take(self, upto: int) -> bool:
        """Inflate until more than `upto` bytes are there; True when that was all."""
        for piece in self._pieces:
            self.size += len(piece)
            if self.size > self._limit:
                raise BodyTooLarge(f"the body is larger than {self._limit} bytes once inflated")
            self._parts.append(piece)
            if self.size > upto:
                return False
        self._inflater.finish()
        return True

    def body(self) -> bytes:
        return b"".join(self._parts)


async def stream_body(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    """The inflated body in pieces, as they come; the whole may be of any length.

    Whoever reads must bound what it keeps of the pieces. Raises as `read_body` does; `BodyTooLarge` when
    the body inflates to more than `max_inflated_body_bytes` and `STREAM_EXPANSION` times what was sent.
    """
    inflater = _inflater(request)
    sending = _Sent(request, STREAM_IDLE_SECONDS, math.inf)
    sent = inflated = 0
    while (chunk := await sending.next()) is not None:
        sent += len(chunk)
        for piece in inflater.pieces(chunk):
            inflated += len(piece)
            if inflated > settings.max_inflated_body_bytes and inflated > STREAM_EXPANSION * sent:
                raise BodyTooLarge(f"the stream inflates to more than {STREAM_EXPANSION} times its size")
            yield piece
        if sending.admission:
            sending.admission.hold(request.scope, -len(chunk))
    inflater.finish()
