"""Reading a request's body within limits, whatever its coding and however slowly it comes.

Inflating stops at the limit, so that a few bytes that stand for gigabytes cost no more than the limit; and a
client that sends too slowly is given up.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import zstandard
from isal import igzip_lib
from starlette.requests import ClientDisconnect, Request

from app.config import Settings
from app.errors import BodyTooLarge, MalformedRequest, RequestTimedOut, UnsupportedMediaType

IDLE_SECONDS = 15.0
"""A client that sends nothing for this long in the middle of a body is given up."""

BODY_SECONDS = 60.0
"""A body that is read as a whole must be here within this time."""

STREAM_IDLE_SECONDS = 120.0
"""The same as `IDLE_SECONDS`, for streams: their clients wait for the next window."""

STREAM_EXPANSION = 200
"""A stream may go on for ever, so what bounds its inflated size is a multiple of what was sent."""

RECEIVED_BYTES = "moeplace.received_bytes"
"""Key of the request's scope: bytes of the body so far, as sent."""

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
    coding = request.headers.get("content-encoding", "identity").strip().lower()
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


async def _sent(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    """The body as it comes, without its transfer coding."""
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise RequestTimedOut(f"nothing of the body came for {idle_seconds:g} s") from None
        except ClientDisconnect:
            raise MalformedRequest("the connection was closed in the middle of the body") from None
        if chunk is None:
            return
        if chunk:
            request.scope[RECEIVED_BYTES] = request.scope.get(RECEIVED_BYTES, 0) + len(chunk)
            yield chunk


def declared_length(request: Request) -> int | None:
    """Content-Length, or None where the client does not know it in advance."""
    value = request.headers.get("content-length")
    return int(value) if value is not None and value.isascii() and value.isdigit() else None


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes")


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body, inflated.

    Raises `BodyTooLarge`, `RequestTimedOut`, `MalformedRequest` (broken coding, closed connection) or
    `UnsupportedMediaType` (unknown coding).
    """
    inflater = _inflater(request)
    limit = settings.max_body_bytes
    length = declared_length(request)
    if length is not None and length > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in _sent(request, IDLE_SECONDS):
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                parts.append(chunk)
    except TimeoutError:
        raise RequestTimedOut(f"the body did not come within {BODY_SECONDS:g} s") from None
    sent = parts[0] if len(parts) == 1 else b"".join(parts)
    if isinstance(inflater, _Identity):
        return sent
    out = _Whole(inflater, sent, settings.max_inflated_body_bytes)
    if size > _INLINE_SENT_BYTES or not out.take(_INLINE_INFLATED_BYTES):
        await asyncio.to_thread(out.take, settings.max_inflated_body_bytes + 1)
    return out.body()


class _Whole:
    """A body being inflated, in one or several goes."""

    def __init__(self, inflater: _Inflater, sent: bytes, limit: int) -> None:
        self._inflater = inflater
        self._pieces = inflater.pieces(sent)
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def take(self, upto: int) -> bool:
        """Inflate until more than `upto` bytes are there; True when that was all."""
        for piece in self._pieces:
            self._size += len(piece)
            if self._size > self._limit:
                raise BodyTooLarge(f"the body is larger than {self._limit} bytes once inflated")
            self._parts.append(piece)
            if self._size > upto:
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
    sent = inflated = 0
    async for chunk in _sent(request, STREAM_IDLE_SECONDS):
        sent += len(chunk)
        for piece in inflater.pieces(chunk):
            inflated += len(piece)
            if inflated > settings.max_inflated_body_bytes and inflated > STREAM_EXPANSION * sent:
                raise BodyTooLarge(f"the stream inflates to more than {STREAM_EXPANSION} times its size")
            yield piece
    inflater.finish()
