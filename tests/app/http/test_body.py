"""Bodies are read within limits: of size, of expansion and of time."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from app.config import Settings
from app.errors import BodyTooLarge, MalformedRequest, RequestTimedOut, UnsupportedMediaType
from app.http import body as body_module
from app.http.body import RECEIVED_BYTES, read_body, stream_body

pytestmark = pytest.mark.anyio
SETTINGS = Settings(max_body_bytes=200_000, max_inflated_body_bytes=1_000_000)


def request(
    chunks: Iterable[bytes], coding: str | None = None, *, then: str = "end", **headers: str
) -> Request:
    """A request whose body comes in these chunks; then it ends, disconnects or stays silent."""
    waiting = iter(chunks)

    async def receive() -> dict[str, Any]:
        chunk = next(waiting, None)
        if chunk is not None:
            return {"type": "http.request", "body": chunk, "more_body": True}
        if then == "silence":
            await asyncio.sleep(3600)
        if then == "disconnect":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    if coding is not None:
        headers["content-encoding"] = coding
    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": encoded}, receive)


async def streamed(request: Request, settings: Settings) -> bytes:
    return b"".join([piece async for piece in stream_body(request, settings)])


READERS = [read_body, streamed]
Reader = Callable[[Request, Settings], Awaitable[bytes]]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}


@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=3),
    st.sampled_from(list(COMPRESS)),
    st.integers(1, 500),
    st.sampled_from(READERS),
)
@settings(max_examples=100)
def test_what_was_compressed_comes_out(parts: list[bytes], coding: str, step: int, reader: Reader) -> None:
    """Any coding, in members or frames one after another, cut anywhere."""
    sent = b"".join(map(COMPRESS[coding], parts))
    chunks = [sent[at : at + step] for at in range(0, len(sent), step)]
    assert asyncio.run(_read(reader, request(chunks, coding))) == b"".join(parts)


async def _read(reader: Reader, request: Request) -> bytes:
    return await reader(request, SETTINGS)


@given(
    st.binary(min_size=1, max_size=2000),
    st.sampled_from(["gzip", "zstd"]),
    st.data(),
    st.sampled_from(READERS),
)
@settings(max_examples=100)
def test_truncated_bodies_are_malformed(
    plain: bytes, coding: str, data: st.DataObject, reader: Reader
) -> None:
    """Wherever the end is missing."""
    sent = COMPRESS[coding](plain)
    cut = data.draw(st.integers(0, len(sent) - 1))
    with pytest.raises(MalformedRequest):
        asyncio.run(_read(reader, request([sent[:cut]], coding)))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_bombs_cost_no_more_than_the_limit(reader: Reader, coding: str) -> None:
    """Half a gigabyte in a few bytes is refused once the limit is reached, in one body or in many members."""
    if coding == "zstd":
        bombs = [zstandard.compress(bytes(512 << 20)), zstandard.compress(bytes(1 << 20)) * 100]
    else:
        bombs = [gzip.compress(bytes(100 << 20))]
    for bomb in bombs:
        assert len(bomb) < SETTINGS.max_body_bytes
        with pytest.raises(BodyTooLarge):
            await reader(request([bomb], coding), SETTINGS)


async def test_a_stream_may_be_longer_than_any_limit() -> None:
    """What limits a stream is how much it expands, not how long it goes on."""
    chunk = bytes(range(256)) * 100
    received = 0
    async for piece in stream_body(request(chunk for _ in range(100)), SETTINGS):
        received += len(piece)
    assert received == 100 * len(chunk) > SETTINGS.max_inflated_body_bytes


async def test_size_as_sent() -> None:
    """Refused by its Content-Length before a byte is read, or as soon as it is too much."""
    limit = SETTINGS.max_body_bytes
    with pytest.raises(BodyTooLarge):
        await read_body(request([], content_length=str(limit + 1)), SETTINGS)
    with pytest.raises(BodyTooLarge):
        await read_body(request([bytes(limit), b"1"]), SETTINGS)
    exact = request([bytes(limit)])
    assert len(await read_body(exact, SETTINGS)) == limit
    assert exact.scope[RECEIVED_BYTES] == limit


@pytest.mark.parametrize("reader", READERS)
async def test_broken_and_unknown_codings(reader: Reader) -> None:
    """Bytes that are not of the coding are malformed; codings we do not know, or several, are refused."""
    for coding in ("gzip", "zstd"):
        with pytest.raises(MalformedRequest):
            await reader(request([b"plain text, not compressed"], coding), SETTINGS)
    for coding in ("br", "gzip, zstd", "deflate"):
        with pytest.raises(UnsupportedMediaType):
            await reader(request([b"x"], coding), SETTINGS)


@pytest.mark.parametrize("reader", READERS)
async def test_a_connection_that_ends_is_no_end_of_body(reader: Reader) -> None:
    """What came before a disconnect is not taken for the whole."""
    with pytest.raises(MalformedRequest):
        await reader(request([b"half"], then="disconnect"), SETTINGS)


@pytest.mark.parametrize("reader", READERS)
async def test_silent_clients_are_given_up(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing for too long: 408."""
    monkeypatch.setattr(body_module, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(body_module, "STREAM_IDLE_SECONDS", 0.05)
    with pytest.raises(RequestTimedOut):
        await reader(request([b"half"], then="silence"), SETTINGS)


async def test_slow_clients_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that trickles never trips the idle limit, but the limit of the whole."""
    monkeypatch.setattr(body_module, "BODY_SECONDS", 0.1)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    trickle = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with pytest.raises(RequestTimedOut):
        await read_body(trickle, SETTINGS)
