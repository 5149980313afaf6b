"""docs/telemetry.md says what the service does: its examples are posted as they stand."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from redis.asyncio import Redis

from app.telemetry import checked_routes, checking, framing, intake, store
from app.telemetry.packed import PackedWindow, unpack
from tests.app.telemetry.cluster import KEYS, PATH, client_of, model, node, register

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text()


def example(name: str) -> str:
    found = re.findall(rf"^```{re.escape(name)}\n(.*?)^```$", PAGE, re.S | re.M)
    assert len(found) == 1, f"{len(found)} examples called {name}"
    return cast(str, found[0])


def dated(body: bytes) -> bytes:
    """The example's times, as long as they are there, moved to now."""
    now = datetime.now(UTC).replace(microsecond=0)
    for text, moment in ((b"06:00:00Z", now - timedelta(seconds=10)), (b"06:00:10Z", now)):
        body = body.replace(b"2026-11-22T" + text, moment.strftime("%Y-%m-%dT%H:%M:%SZ").encode())
    return body


def from_hexdump(dump: str) -> bytes:
    return b"".join(bytes.fromhex(line[10:58]) for line in dump.splitlines())


@pytest.fixture
async def client(redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    await register(redis, [model("moe", {0: 8})], [node(instance_uid="a-1")])
    async with client_of(redis) as client:
        yield client


async def stored(redis: Redis) -> list[PackedWindow]:
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(KEYS.telemetry))
    return [unpack(fields[b"w"]) for _, fields in entries]


async def post(client: httpx.AsyncClient, body: bytes, media_type: str) -> Any:
    answer = await client.post(PATH, content=dated(body), headers={"Content-Type": media_type})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("name", ["json", "json packed", "hexdump"])
async def test_each_form_is_the_same_window(client: httpx.AsyncClient, redis: Redis, name: str) -> None:
    """Lists, base64 and MessagePack bytes mean the counts and routes the page says, and get its answer."""
    text = example(name)
    if name == "hexdump":
        answer = await post(client, from_hexdump(text), "application/msgpack")
    else:
        answer = await post(client, text.encode(), "application/json")
    assert answer == json.loads(example("json answer"))
    (window,) = await stored(redis)
    assert window.layers is None
    assert window.counted_experts() is None
    assert window.counted().tolist() == [0, 4, 0, 3, 0, 0, 0, 1]
    assert window.routes[0].sets().tolist() == [[1, 3], [1, 7]]
    assert window.routes[0].weighed().tolist() == [3.0, 1.0]
    assert (window.sequence_number, window.tokens) == (7, 4)


async def test_the_stream(client: httpx.AsyncClient, redis: Redis) -> None:
    """Both lines are windows."""
    answer = await post(client, example("ndjson").encode(), "application/x-ndjson")
    assert answer == {"accepted_count": 2, "duplicate": False, "partial_success": None}
    assert [w.sequence_number for w in await stored(redis)] == [8, 9]


async def test_the_partial_success(client: httpx.AsyncClient) -> None:
    """The answer of the page is the answer to the fault it names."""
    body = json.loads(example("json"))
    body["routes"][0]["experts"][1] = [1, 9]
    answer = await post(client, json.dumps(body).encode(), "application/json")
    assert answer == json.loads(example("json partial"))


async def test_the_limits_named() -> None:
    """Numbers on the page are those of the code."""
    assert f"{checked_routes.MAX_ROUTES} in a window" in PAGE
    assert f"at most {checking.MAX_WINDOW_SECONDS / 3600:g} h long" in PAGE
    assert f"ended at most {checking.MAX_AGE_SECONDS / 60:g} min ago" in PAGE
    assert f"at most {checking.MAX_AHEAD_SECONDS / 60:g} min ahead" in PAGE
    assert f"1 to {checked_routes.MAX_K} different experts" in PAGE
    assert f"at most {framing.MAX_WINDOW_BYTES >> 20} MiB after decompression" in PAGE
    assert f"the {store.REMEMBERED} newest numbers" in PAGE
    assert framing.MAX_BLANK_LINES == intake.MAX_REJECTED == 1000


def test_every_hexdump_line_shows_its_text() -> None:
    """The right column is what the bytes on the left spell, and the offsets are right."""
    for number, line in enumerate(example("hexdump").splitlines()):
        body = bytes.fromhex(line[10:58])
        assert int(line[:8], 16) == 16 * number
        assert line[59:].strip() == "|" + "".join(chr(b) if 32 <= b < 127 else "." for b in body) + "|"
