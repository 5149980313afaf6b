"""Whatever is done to a valid window, the answer is a 200 or a problem, and the good rest is counted."""

import asyncio
import copy
import gzip
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.storage.client import open_client
from app.storage.embedded import EmbeddedServer
from app.telemetry.packed import unpack
from tests.app.telemetry.cluster import COUNTS, KEYS, PATH, client_of, dense, msgpack_window, register, window

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a JSON-like value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from places(part, (*path, index))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return changed


class Posting:
    """One loop, one server and one application for all examples of a test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner = asyncio.Runner()

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, Any, list[dict[int, list[int]]]]:
        """Status, answer, and dense counts by layer of what was stored."""
        return self._runner.run(self._post(body, headers))

    async def _post(
        self, body: bytes, headers: dict[str, str]
    ) -> tuple[int, Any, list[dict[int, list[int]]]]:
        async with open_client(self._url) as redis:
            await redis.flushall()
            await register(redis)
            async with client_of(redis) as client:
                answer = await client.post(PATH, content=body, headers=headers)
            entries: Any = await redis.xrange(KEYS.telemetry)
        found = [dense(unpack(fields[b"w"])) for _, fields in entries]
        return answer.status_code, answer.json(), found

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(scope="module")
def posting(redis_server: EmbeddedServer) -> Iterator[Posting]:
    posting = Posting(redis_server.url)
    yield posting
    posting.close()


def judge(posting: Posting, body: bytes, headers: dict[str, str], touched: set[int] | None) -> None:
    """`touched`: layers whose counts may have changed; None: all, and the window's frame too."""
    status, answer, stored = posting.post(body, headers)
    if status == 200:
        assert answer["accepted_count"] == len(stored)
        if answer["accepted_count"] == 0:
            assert answer["partial_success"] is not None or answer["duplicate"] or not body.strip()
        for counts in stored:
            for layer, dense in COUNTS.items():
                if touched is not None and layer not in touched:
                    assert counts[layer] == dense
    else:
        assert 400 <= status < 500, answer
        assert answer["detail"]
        assert stored == []
        assert touched is None, (status, answer)


def layers_touched(value: dict[str, Any], path: tuple[Any, ...]) -> set[int] | None:
    if path[0] == "routes" and len(path) > 1:
        return set()
    if path[0] == "step_time_seconds":
        return set()
    if path[0] == "layers" and len(path) > 1:
        # A layer that takes another's number may be there twice, and then the first counts.
        return None if path[-1] == "layer" or len(path) == 2 else {value["layers"][path[1]]["layer"]}
    return None


BUDGET = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data())
@BUDGET
def test_one_value_replaced_in_json(posting: Posting, data: st.DataObject) -> None:
    """JSON: any value anywhere replaced by anything; untouched layers are counted as they were."""
    value = window()
    path = data.draw(st.sampled_from(list(places(value))))
    new = data.draw(ANYTHING)
    try:
        body = json.dumps(put(value, path, _for_json(new))).encode()
    except (ValueError, UnicodeEncodeError):
        return
    judge(
        posting,
        body,
        {"Content-Type": "application/json"},
        layers_touched(value, path) if b"NaN" not in body and b"Infinity" not in body else None,
    )


def _for_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_for_json(part) for part in value]
    if isinstance(value, dict):
        return {key: _for_json(part) for key, part in value.items()}
    return value


@given(data=st.data())
@BUDGET
def test_one_value_replaced_in_messagepack(posting: Posting, data: st.DataObject) -> None:
    """MessagePack, where NaN and bytes can be said too."""
    value = msgpack_window()
    path = data.draw(st.sampled_from(list(places(value))))
    new = data.draw(ANYTHING)
    try:
        body = msgspec.msgpack.encode(put(value, path, new))
    except (OverflowError, UnicodeEncodeError, ValueError):
        return
    judge(posting, body, {"Content-Type": "application/msgpack"}, layers_touched(value, path))


@given(
    st.sampled_from(["json", "msgpack", "gzip", "ndjson"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, 10_000),
)
@BUDGET
def test_bytes_flipped_and_cut(
    posting: Posting, form: str, flips: list[tuple[int, int]], cut: int | None
) -> None:
    """Any bytes changed and the end cut off, in any format: never a failure of the service."""
    headers = {"Content-Type": "application/json"}
    body = bytearray(json.dumps(window()).encode())
    if form == "msgpack":
        headers = {"Content-Type": "application/msgpack"}
        body = bytearray(msgspec.msgpack.encode(msgpack_window()))
    elif form == "gzip":
        headers["Content-Encoding"] = "gzip"
        body = bytearray(gzip.compress(body))
    elif form == "ndjson":
        headers = {"Content-Type": "application/x-ndjson"}
        body = bytearray(json.dumps(window(1)).encode() + b"\n" + json.dumps(window(2)).encode())
    for place, value in flips:
        body[place % len(body)] = value
    if cut is not None:
        del body[cut % len(body) :]
    judge(posting, bytes(body), headers, None)


@given(
    st.binary(max_size=300),
    st.sampled_from(["application/json", "application/msgpack", "application/x-ndjson"]),
)
@BUDGET
def test_noise(posting: Posting, body: bytes, media_type: str) -> None:
    """Any bytes at all."""
    judge(posting, body, {"Content-Type": media_type}, None)
