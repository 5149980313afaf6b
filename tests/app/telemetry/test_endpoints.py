"""Telemetry over HTTP, into a real server."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
import zstandard
from redis.asyncio import Redis

from app.telemetry.decoding import MAX_LISTED_BYTES
from app.telemetry.packed import PackedWindow, unpack
from app.telemetry.store import REMEMBERED
from tests.app.telemetry.cluster import (
    COUNTS,
    KEYS,
    NODE,
    PATH,
    client_of,
    dense,
    encoded,
    model,
    msgpack_window,
    node,
    packed,
    packed_base64,
    register,
    window,
)

pytestmark = pytest.mark.anyio
MSGPACK = {"Content-Type": "application/msgpack"}
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
async def client(redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    await register(redis)
    async with client_of(redis) as client:
        yield client


async def stream(redis: Redis) -> list[bytes]:
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(KEYS.telemetry))
    return [fields[b"w"] for _, fields in entries]


async def stored(redis: Redis) -> list[PackedWindow]:
    return [unpack(body) for body in await stream(redis)]


def sets(kept: PackedWindow) -> dict[int, list[tuple[list[int], float]]]:
    found = {}
    for routes in kept.routes:
        found[routes.layer] = [
            ([expert for expert in row if expert != 65535], weight)
            for row, weight in zip(routes.sets().tolist(), routes.weighed().tolist(), strict=True)
        ]
    return found


ROUTES = {1: [([0, 1], 2.0), ([2, 7], 1.0), ([3], 0.5)], 5: [([0, 1], 1.0), ([2, 3], 1.0)]}


async def test_json_and_messagepack_say_the_same(client: httpx.AsyncClient, redis: Redis) -> None:
    """Lists, base64 and packed bytes of the same window are stored as the same window."""
    for body, headers in (
        (json.dumps(window(1)).encode(), {"Content-Type": "application/json"}),
        (encoded(msgpack_window(2)), MSGPACK),
    ):
        answer = await client.post(PATH, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"accepted_count": 1, "duplicate": False, "partial_success": None}
    kept = await stored(redis)
    assert [w.sequence_number for w in kept] == [1, 2]
    for w in kept:
        assert (w.node_id, w.model_id, w.model_digest, w.tokens) == (NODE, "moe", "d1", 18)
        assert w.end_us - w.start_us == 10_000_000
        assert dense(w) == COUNTS
        assert sets(w) == ROUTES
    assert await redis.get(KEYS.telemetry_bytes) == str(sum(map(len, await stream(redis)))).encode()


async def test_the_version_of_the_format(client: httpx.AsyncClient) -> None:
    """Version 1 may be said; another is refused, whatever the bytes look like."""
    for number, (version, status) in enumerate((("1", 200), ('"1"', 200), ("2", 415)), start=1):
        headers = {"Content-Type": f"application/msgpack; version={version}"}
        answer = await client.post(PATH, content=encoded(msgpack_window(number)), headers=headers)
        assert answer.status_code == status, answer.text


async def test_a_repeat_counts_once(client: httpx.AsyncClient, redis: Redis) -> None:
    """The same sequence number of the same instance is answered as duplicate and not stored again."""
    for expected in (False, True, True):
        answer = (await client.post(PATH, json=window(7))).json()
        assert answer["duplicate"] is expected
        assert answer["accepted_count"] == (0 if expected else 1)
    assert len(await stored(redis)) == 1


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_codings(client: httpx.AsyncClient, redis: Redis, coding: str) -> None:
    """Compressed bodies are taken, in one member or several."""
    body = json.dumps(window()).encode()
    compress = gzip.compress if coding == "gzip" else zstandard.compress
    parts = compress(body[:100]) + compress(body[100:])
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = await client.post(PATH, content=parts, headers=headers)
    assert answer.status_code == 200, answer.text
    assert dense((await stored(redis))[0]) == COUNTS


async def test_a_stream_of_lines(client: httpx.AsyncClient, redis: Redis) -> None:
    """Each line is a window; a broken one is named by its index and costs nothing but itself."""
    lines = [json.dumps(window(i)).encode() for i in (1, 2, 3)]
    lines[1] = b'{"model_id": '

    async def pieces() -> AsyncIterator[bytes]:
        body = b"\n".join(lines)
        for at in range(0, len(body), 97):
            yield body[at : at + 97]

    answer = (await client.post(PATH, content=pieces(), headers=NDJSON)).json()
    assert answer["accepted_count"] == 2
    assert answer["partial_success"]["rejected_count"] == 1
    assert answer["partial_success"]["errors"][0]["pointer"] == "/1"
    assert [w.sequence_number for w in await stored(redis)] == [1, 3]


@pytest.mark.parametrize("step", [1, 50, 10_000])
async def test_a_stream_of_messagepack(client: httpx.AsyncClient, redis: Redis, step: int) -> None:
    """Windows one after another, cut anywhere, with faults told by window."""
    bodies = [encoded(msgpack_window(i)) for i in (1, 2, 3)]
    bodies[1] = encoded(msgpack_window(2, layers=[{"layer": 99, "counts": b""}], routes=[]))
    body = b"".join(bodies)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), step):
            yield body[at : at + step]

    for content, repeated in ((pieces(), False), (body, True)):
        answer = (await client.post(PATH, content=content, headers=MSGPACK)).json()
        assert answer["duplicate"] is repeated
        assert answer["partial_success"]["rejected_count"] == 1
        pointers = [error["pointer"] for error in answer["partial_success"]["errors"]]
        assert pointers == ["/1/layers/0/layer", "/1/layers"]
    assert [w.sequence_number for w in await stored(redis)] == [1, 3]


async def test_each_window_of_a_stream_is_in_redis_before_the_next_is_read(
    client: httpx.AsyncClient, redis: Redis
) -> None:
    """A stream that breaks keeps what came before, and what came before is there while it runs."""
    seen: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for i in (1, 2, 3):
            yield json.dumps(window(i)).encode() + b"\n"
            yield b"\n"
            seen.append(await redis.xlen(KEYS.telemetry))
        raise OSError("the client's cable")

    with pytest.raises(OSError, match="cable"):
        await client.post(PATH, content=pieces(), headers=NDJSON)
    assert seen == [1, 2, 3]
    assert len(await stored(redis)) == 3


def _layer(**changes: Any) -> list[dict[str, Any]]:
    return [{"layer": 1, "counts": [1] * 8, **changes}, {"layer": 2, "counts": [2] * 8}]


@pytest.mark.parametrize(
    ("layers", "pointer", "code"),
    [
        (_layer(counts=[1] * 7), "/layers/0/counts", "WRONG_LENGTH"),
        (_layer(counts=[1, 2, 3, -4, 5, 6, 7, 8]), "/layers/0/counts/3", "OUT_OF_RANGE"),
        (_layer(counts=[2**32] + [1] * 7), "/layers/0/counts/0", "OUT_OF_RANGE"),
        (_layer(counts=[1] * 7 + [10**30]), "/layers/0/counts/7", "OUT_OF_RANGE"),
        (_layer(counts=[1, 2, "3", 4, 5, 6, 7, 8]), "/layers/0/counts/2", "WRONG_TYPE"),
        (_layer(counts=[1, 2, 3.5, 4, 5, 6, 7, 8]), "/layers/0/counts/2", "WRONG_TYPE"),
        (_layer(counts="AAAA!"), "/layers/0/counts", "WRONG_TYPE"),
        (_layer(counts="AAAA"), "/layers/0/counts", "WRONG_LENGTH"),
        (_layer(layer=3), "/layers/0/layer", "UNKNOWN_LAYER"),
        (_layer(expert_ids=[0, 8], counts=[1, 1]), "/layers/0/expert_ids/1", "EXPERT_OUT_OF_RANGE"),
        (_layer(expert_ids=[3, 1, 3], counts=[1, 1, 1]), "/layers/0/expert_ids/2", "REPEATED_EXPERT"),
        (_layer(expert_ids=[3, 1], counts=[1, 1, 1]), "/layers/0/counts", "WRONG_LENGTH"),
        (_layer(cuonts=[1]), "/layers/0/cuonts", "UNKNOWN_FIELD"),
        ([{"counts": [1] * 8}, *_layer()[1:]], "/layers/0", "MISSING"),
        ([7, *_layer()[1:]], "/layers/0", "WRONG_TYPE"),
        (
            [{"layer": 2, "counts": [2] * 8}, {"layer": 2, "counts": [9] * 8}],
            "/layers/1/layer",
            "REPEATED_LAYER",
        ),
    ],
)
async def test_a_bad_layer_costs_only_itself(
    client: httpx.AsyncClient, redis: Redis, layers: list[Any], pointer: str, code: str
) -> None:
    """The fault is named with its place, and the other layer is counted."""
    answer = await client.post(PATH, json=window(layers=layers, routes=[]))
    assert answer.status_code == 200, answer.text
    partial = answer.json()["partial_success"]
    assert partial["rejected_count"] == 1
    assert (partial["errors"][0]["pointer"], partial["errors"][0]["code"]) == (pointer, code)
    assert dense((await stored(redis))[0]) == {2: [2] * 8}


def _routes(*rows: list[Any], **changes: Any) -> dict[str, Any]:
    return {"layer": 1, "experts": [[0, 1], *rows, [2, 3]], **changes}


@pytest.mark.parametrize(
    ("routes", "pointer", "code", "kept"),
    [
        (_routes([4, 4]), "/routes/0/experts/1", "REPEATED_EXPERT", 2),
        (_routes([4, 8]), "/routes/0/experts/1", "EXPERT_OUT_OF_RANGE", 2),
        (_routes([-1, 4]), "/routes/0/experts/1", "EXPERT_OUT_OF_RANGE", 2),
        (_routes([65535, 4]), "/routes/0/experts/1", "EXPERT_OUT_OF_RANGE", 2),
        (_routes([10**25]), "/routes/0/experts/1", "EXPERT_OUT_OF_RANGE", 2),
        (_routes([]), "/routes/0/experts/1", "EMPTY_ROUTE", 2),
        (_routes(list(range(9))), "/routes/0/experts/1", "TOO_MANY_EXPERTS", 2),
        (_routes(weights=[1.0]), "/routes/0/weights", "WRONG_LENGTH", 0),
        (_routes(weights=[1.0, -1.0]), "/routes/0/weights/1", "OUT_OF_RANGE", 1),
        (_routes(weights=[1e300, 1.0]), "/routes/0/weights/0", "OUT_OF_RANGE", 1),
        (_routes(layer=9), "/routes/0/layer", "UNKNOWN_LAYER", 0),
        (_routes(k=0, experts="AAAA"), "/routes/0/k", "OUT_OF_RANGE", 0),
        (_routes(experts="AAAB"), "/routes/0/experts", "WRONG_LENGTH", 0),
        (_routes([0, "1"]), "/routes/0/experts/1/1", "WRONG_TYPE", 0),
    ],
)
async def test_a_bad_route_costs_only_itself(
    client: httpx.AsyncClient, redis: Redis, routes: dict[str, Any], pointer: str, code: str, kept: int
) -> None:
    """The route, or what cannot be cut into routes, is named; counts and other routes are kept."""
    layers = window()["layers"][:1]
    answer = await client.post(PATH, json=window(layers=layers, routes=[routes]))
    assert answer.status_code == 200, answer.text
    partial = answer.json()["partial_success"]
    assert partial["rejected_count"] == 1
    assert (partial["errors"][0]["pointer"], partial["errors"][0]["code"]) == (pointer, code)
    found = (await stored(redis))[0]
    assert dense(found) == {1: COUNTS[1]}
    assert sum(map(len, sets(found).values())) == kept


async def test_packed_routes_are_judged_row_by_row(client: httpx.AsyncClient, redis: Redis) -> None:
    """Repeats, ids out of range, ids after a pad and NaN weights in packed bytes are found by row."""
    rows = [0, 1, 4, 4, 2, 9, 65535, 1, 65535, 65535, 2, 65535, 6, 7]
    weights = packed([1, 1, 1, 1, 1, 1, float("nan")], "<f4")
    routes = [{"layer": 1, "experts": packed(rows, "<u2"), "weights": weights}]
    body = encoded(msgpack_window(routes=routes))
    answer = (await client.post(PATH, content=body, headers=MSGPACK)).json()
    assert [(e["pointer"], e["code"]) for e in answer["partial_success"]["errors"]] == [
        ("/routes/0/experts/1", "REPEATED_EXPERT"),
        ("/routes/0/experts/2", "EXPERT_OUT_OF_RANGE"),
        ("/routes/0/experts/3", "MALFORMED"),
        ("/routes/0/experts/4", "EMPTY_ROUTE"),
        ("/routes/0/weights/6", "OUT_OF_RANGE"),
    ]
    assert sets((await stored(redis))[0]) == {1: [([0, 1], 1.0), ([2], 1.0)]}


async def test_faults_are_listed_up_to_a_limit_and_all_counted(
    client: httpx.AsyncClient, redis: Redis
) -> None:
    """Fifty faults are told one by one; the number tells of all."""
    routes = [{"layer": 1, "experts": [[0, 0]] * 200 + [[1, 2]]}]
    answer = (await client.post(PATH, json=window(routes=routes))).json()
    assert answer["partial_success"]["rejected_count"] == 200
    assert len(answer["partial_success"]["errors"]) == 50
    assert sets((await stored(redis))[0]) == {1: [([1, 2], 1.0)]}


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"model_id": "other"}, "/model_id", "UNKNOWN_MODEL"),
        ({"instance_uid": "instance-0"}, "/instance_uid", "UNKNOWN_INSTANCE"),
        ({"instance_uid": "two words"}, "/instance_uid", "MALFORMED"),
        ({"sequence_number": 0}, "/sequence_number", "OUT_OF_RANGE"),
        ({"sequence_number": 2**53 + 1}, "/sequence_number", "OUT_OF_RANGE"),
        ({"sequence_number": 10**40}, "/sequence_number", "OUT_OF_RANGE"),
        ({"sequence_number": "1"}, "/sequence_number", "WRONG_TYPE"),
        ({"tokens": -1}, "/tokens", "OUT_OF_RANGE"),
        ({"tokens": 2**32}, "/tokens", "OUT_OF_RANGE"),
        ({"tokens": None}, "/tokens", "WRONG_TYPE"),
        ({"layers": {}}, "/layers", "WRONG_TYPE"),
        ({"layers": [{"layer": 1, "counts": []}], "routes": []}, "/layers/0/counts", "WRONG_LENGTH"),
        ({"routes": 3}, "/routes", "WRONG_TYPE"),
        (
            {"window": {"start_at": "2020-01-01T00:00:00Z", "end_at": "2020-01-01T00:00:10Z"}},
            "/window/end_at",
            "CLOCK_SKEW",
        ),
        (
            {"window": {"start_at": "2099-01-01T00:00:00Z", "end_at": "2099-01-01T00:00:10Z"}},
            "/window/end_at",
            "CLOCK_SKEW",
        ),
        (
            {"window": {"start_at": "2020-01-01T00:00:00", "end_at": "2020-01-01T00:00:10Z"}},
            "/window/start_at",
            "WRONG_TYPE",
        ),
        ({"tokens_seen": 1}, "/tokens_seen", "UNKNOWN_FIELD"),
    ],
)
async def test_a_window_that_cannot_be_taken(
    client: httpx.AsyncClient, redis: Redis, changes: dict[str, Any], pointer: str, code: str
) -> None:
    """422 with a pointer, and nothing stored."""
    answer = await client.post(PATH, json=window(**changes))
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    error = answer.json()["errors"][0]
    assert (error["pointer"], error["code"]) == (pointer, code)
    assert await stored(redis) == []


async def test_windows_of_no_length_or_too_long(client: httpx.AsyncClient) -> None:
    """The span must be positive and at most an hour."""
    span = window()["window"]
    for start_at, code in (
        (span["end_at"], "END_NOT_AFTER_START"),
        ("2026-01-01T00:00:00Z", "WINDOW_TOO_LONG"),
    ):
        answer = await client.post(PATH, json=window(window={**span, "start_at": start_at}))
        assert [e["code"] for e in answer.json()["errors"]] == [code]


@pytest.mark.parametrize("told", [{"p50": 0.02, "p99": 0.03}, {"p50": "soon"}, None, [1, 2]])
async def test_step_times_of_older_agents_are_ignored(
    client: httpx.AsyncClient, redis: Redis, told: Any
) -> None:
    """A window with step times, whatever they hold, is the same window without them, in JSON and packed."""
    for body, headers in (
        (json.dumps(window(step_time_seconds=told)).encode(), {"Content-Type": "application/json"}),
        (encoded(msgpack_window(step_time_seconds=told, sequence_number=2)), MSGPACK),
    ):
        answer = (await client.post(PATH, content=body, headers=headers)).json()
        assert (answer["accepted_count"], answer["partial_success"]) == (1, None)
    assert [it.step_time_p50_seconds for it in await stored(redis)] == [None, None]


async def test_an_idle_window_is_taken(client: httpx.AsyncClient, redis: Redis) -> None:
    """No tokens and no layers: the time counts."""
    answer = await client.post(PATH, json=window(tokens=0, layers=[], routes=[]))
    assert answer.json()["accepted_count"] == 1
    assert (await stored(redis))[0].layers == ()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {"Content-Type": "application/json"}, 400),
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"[" * 100_000, {"Content-Type": "application/json"}, 400),
        (b'{"model_id": "\xff"}', {"Content-Type": "application/json"}, 400),
        (b"[]", {"Content-Type": "application/json"}, 422),
        (b"\xc1", MSGPACK, 400),
        (b"\x81", MSGPACK, 400),
        (b"", MSGPACK, 400),
        (b"\x91" * 50_000 + b"\x01", MSGPACK, 400),
        (b"x", {"Content-Type": "text/plain"}, 415),
        (b"x", {}, 415),
        (b"x", {"Content-Type": "application/json", "Content-Encoding": "br"}, 415),
        (b"x", {"Content-Type": "application/json", "Content-Encoding": "gzip"}, 400),
        (
            gzip.compress(b"{}", mtime=0)[:-3],
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            400,
        ),
        (
            zstandard.compress(b"{}" * 99)[:-3],
            {"Content-Type": "application/json", "Content-Encoding": "zstd"},
            400,
        ),
        (
            gzip.compress(bytes(9 << 20)),
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            413,
        ),
        (
            zstandard.compress(bytes(99 << 20)),
            {"Content-Type": "application/json", "Content-Encoding": "zstd"},
            413,
        ),
        (zstandard.compress(bytes(99 << 20)), {**MSGPACK, "Content-Encoding": "zstd"}, 413),
        (zstandard.compress(b"\n" * (99 << 20)), {**NDJSON, "Content-Encoding": "zstd"}, 400),
        (b" " * (9 << 20), NDJSON, 413),
        (zstandard.compress(b"1\n" * (9 << 20)), {**NDJSON, "Content-Encoding": "zstd"}, 422),
        (zstandard.compress(bytes(16 << 10)), {**MSGPACK, "Content-Encoding": "zstd"}, 400),
        (b"\xc6\x7f\xff\xff\xff", MSGPACK, 400),
    ],
)
async def test_bodies_that_are_not_windows(
    client: httpx.AsyncClient, redis: Redis, body: bytes, headers: dict[str, str], status: int
) -> None:
    """Broken, unknown, oversized and bomb-compressed bodies get a problem, and nothing is stored."""
    answer = await client.post(PATH, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert await stored(redis) == []


@pytest.mark.parametrize(
    "path", ["/v1/clusters/edge/nodes/other/telemetry", "/v1/clusters/none/nodes/node-a/telemetry"]
)
async def test_unknown_nodes_and_clusters(client: httpx.AsyncClient, path: str) -> None:
    """404, whatever the body."""
    assert (await client.post(path, json=window())).status_code == 404


async def test_what_is_registered_later_is_known_at_once(client: httpx.AsyncClient, redis: Redis) -> None:
    """A window is judged by the revision in force: new models, new shapes and new instances included. One
    that was on its way when its model's shape changed is to be sent again."""
    assert (await client.post(PATH, json=window(1))).status_code == 200
    layers = [{"layer": 1, "counts": [1] * 16}]
    later = window(2, model_id="later", layers=layers, routes=[])
    assert (await client.post(PATH, json=later)).status_code == 422
    await register(redis, [model(), model("later", {1: 16}, "d2")])
    assert (await client.post(PATH, json=later)).status_code == 200
    await register(redis, [model("later", {1: 8}, "d3")])
    overtaken = await client.post(PATH, json={**later, "sequence_number": 3})
    assert overtaken.status_code == 503
    assert overtaken.headers["Retry-After"] == "1"
    again = await client.post(PATH, json={**later, "sequence_number": 3})
    assert again.json()["errors"][0]["pointer"] == "/layers/0/counts"
    await register(redis, [model()], [node(instance_uid="instance-2")])
    refused = await client.post(PATH, json=window(4))
    assert refused.json()["errors"][0]["code"] == "UNKNOWN_INSTANCE"
    assert (await client.post(PATH, json=window(4, instance_uid="instance-2"))).status_code == 200


async def test_old_sequence_numbers_are_refused_once_forgotten(
    client: httpx.AsyncClient, redis: Redis
) -> None:
    """The memory is bounded; numbers below it can't be told from repeats, gaps within it are fine."""
    numbers = {str(i): i for i in range(10, 10 + 2 * REMEMBERED, 2)}
    await redis.zadd(KEYS.telemetry_seen(NODE), numbers)
    assert (await client.post(PATH, json=window(9))).json()["errors"][0]["code"] == "STALE_SEQUENCE_NUMBER"
    assert (await client.post(PATH, json=window(10))).json()["duplicate"] is True
    assert (await client.post(PATH, json=window(11))).json()["accepted_count"] == 1
    assert await redis.zcard(KEYS.telemetry_seen(NODE)) == REMEMBERED
    assert (await client.post(PATH, json=window(10))).json()["errors"][0]["code"] == "STALE_SEQUENCE_NUMBER"


async def test_a_full_stream_asks_to_come_back(redis: Redis) -> None:
    """503 with Retry-After while the worker is behind; the window is not remembered as taken."""
    await register(redis)
    async with client_of(redis, max_unfolded_bytes=1024) as client:
        answers = [await client.post(PATH, json=window(i)) for i in range(1, 20)]
        refused = answers[-1]
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert await redis.xlen(KEYS.telemetry) == sum(a.status_code == 200 for a in answers) > 0
        await redis.delete(KEYS.telemetry, KEYS.telemetry_bytes)
        assert (await client.post(PATH, json=window(19))).json()["accepted_count"] == 1


async def test_large_windows_must_be_packed(client: httpx.AsyncClient, redis: Redis) -> None:
    """Lists cost by the number, so a window of many is refused at once; packed, its size does not matter."""
    routes = [{"layer": 1, "experts": [[0, 1]] * 20_000}]
    layers = [{"layer": 1, "counts": packed_base64([5000] * 8, "<u4")}]
    refused = await client.post(PATH, json=window(1, layers=layers, routes=routes))
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/routes/0/experts"
    assert "must be packed" in refused.json()["errors"][0]["detail"]
    routes = [{"layer": 1, "experts": packed_base64([0, 1] * 20_000, "<u2")}]
    body = window(1, layers=layers, routes=routes)
    assert len(json.dumps(body)) > MAX_LISTED_BYTES
    accepted = await client.post(PATH, json=body)
    assert accepted.json() == {"accepted_count": 1, "duplicate": False, "partial_success": None}


async def test_more_parts_than_any_model_has(client: httpx.AsyncClient, redis: Redis) -> None:
    """A window of thousands of layers is refused whole, before they are looked at."""
    refused = await client.post(PATH, json=window(1, layers=[{"layer": 1, "counts": ""}] * 5000, routes=[]))
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["code"] == "TOO_MANY"
