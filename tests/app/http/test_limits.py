"""No request costs a process more than it may: bodies, values in them, faults in them, lists and pages."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from httpx import ASGITransport, AsyncClient
from isal import igzip
from redis.asyncio import Redis

from app.config import Settings
from app.main import create_app
from app.nodes.holdings import MAX_MEMBERS
from app.storage.keys import ClusterKeys
from benchmarks.load import fleet, servers
from benchmarks.load.attacks import ATTACKS

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
BASE = "/v1/clusters/load"
SPEC = {"instance_uid": "i-1", "devices": [{"device_id": "gpu0", "memory_bytes": 1}]}


@pytest.fixture
async def node(api: AsyncClient) -> str:
    """Path of a registered node."""
    assert (await api.put(f"{BASE}/nodes/n", json=SPEC)).status_code == 201
    return f"{BASE}/nodes/n"


def _beat(number: int, **changes: Any) -> dict[str, Any]:
    return {"instance_uid": "i-1", "sequence_number": number, **changes}


async def test_a_small_body_that_inflates_is_refused_before_it_is_parsed(api: AsyncClient, node: str) -> None:
    """Fourteen million experts in 50 kB of gzip: 413, as for a plain body of that size."""
    bomb = b'{"instance_uid":"i-1","sequence_number":1,"holds":[' + b"1," * 14_000_000 + b"1]}"
    headers = {**JSON, "Content-Encoding": "gzip"}
    for path in (f"{node}/status", node, BASE, f"{BASE}/models/m", "/v1/tokens"):
        method = "POST" if path == "/v1/tokens" else "PUT"
        answer = await api.request(method, path, content=igzip.compress(bomb), headers=headers)
        assert answer.status_code == 413, path


async def test_bodies_that_wait_to_be_inflated_are_counted_as_held(shared_url: str, redis: Redis) -> None:
    """Of twenty bombs at once each has half a megabyte inflated when it waits for a thread: those beyond what
    the process may hold are refused with 503 then."""
    bomb = igzip.compress(b" " * (5 << 20))
    headers = {**JSON, "Content-Encoding": "gzip"}
    app = create_app(Settings(redis_url=shared_url, max_held_bytes=1 << 20))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://127.0.0.1") as api,
    ):
        assert (await api.put(f"{BASE}/nodes/n", json=SPEC)).status_code == 201
        beats = [api.put(f"{BASE}/nodes/n/status", content=bomb, headers=headers) for _ in range(20)]
        statuses = [answer.status_code for answer in await asyncio.gather(*beats)]
        assert set(statuses) == {413, 503}
        assert (await api.put(f"{BASE}/nodes/n", json=SPEC)).status_code == 200


async def test_values_are_counted_before_anything_is_made_of_them(api: AsyncClient, node: str) -> None:
    """Each would be an object or a fault; the problem tells how many there are and how many may be."""
    for body in (b'{"holds":[' + b'"",' * 900_000 + b'""]}', b"{" + b'"a":1,' * 100_000 + b'"a":1}'):
        answer = await api.put(f"{node}/status", content=body, headers=JSON)
        assert answer.status_code == 413
        assert "expected at most" in answer.json()["detail"]


async def test_of_thousands_of_faults_the_number_is_told(api: AsyncClient, node: str) -> None:
    """To list them would take seconds."""
    unknown = {f"field-{index}": 1 for index in range(9000)}
    answer = await api.put(node, json={**SPEC, **unknown})
    assert answer.status_code == 422
    assert "9000 faults" in answer.json()["detail"]


async def test_a_node_holds_so_many_experts_at_most(api: AsyncClient, node: str, redis: Redis) -> None:
    """Heartbeats that each add a quarter of a million experts of no model: the second is refused, by pointer,
    and changes nothing; what replaces others may come."""

    def added(model: str, count: int = MAX_MEMBERS) -> list[dict[str, Any]]:
        layers = range(-(-count // 4096))
        return [
            {"model_id": model, "layer": it, "experts": list(range(min(4096, count - 4096 * it)))}
            for it in layers
        ]

    async def beat(number: int, **change: Any) -> httpx.Response:
        return await api.put(f"{node}/status", json=_beat(number, **change))

    assert (await beat(1, holds=added("first"))).status_code == 200
    refused = await beat(2, holds_changed={"added": added("second", 1)})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/holds_changed/added"
    assert await redis.scard(ClusterKeys("load").holdings("n")) == MAX_MEMBERS
    again = await beat(2, holds_changed={"added": added("first", 10)})
    assert again.status_code == 200
    swapped = await beat(3, holds_changed={"added": added("second", 1), "removed": added("first", 1)})
    assert swapped.status_code == 200
    assert await redis.scard(ClusterKeys("load").holdings("n")) == MAX_MEMBERS


async def test_a_page_of_large_entries_is_short(api: AsyncClient) -> None:
    """Nodes that tell a thousand latencies each, and models with many digests: a page ends where it is full,
    and the next begins there."""
    peers = {f"{'p' * 50}{index}": 0.001 for index in range(1000)}
    names = [f"n{index:03d}" for index in range(70)]
    for name in names:
        spec = {**SPEC, "latency": {"peers_seconds": peers}}
        assert (await api.put(f"{BASE}/nodes/{name}", json=spec)).status_code == 201
    blocks = [
        {"layer": 0, "experts": 4096, "expert_bytes": 1, "top_k": 1, "expert_digests": ["a" * 64] * 4096}
    ]
    models = [f"m{index:02d}" for index in range(9)]
    for name in models:
        assert (await api.put(f"{BASE}/models/{name}", json={"blocks": blocks})).status_code == 201
    assert await _names(api, "nodes", "node_id", 1000) == (names, 2)
    assert await _names(api, "models", "model_id", 64) == (models, 2)


async def _names(api: AsyncClient, kind: str, field: str, limit: int) -> tuple[list[str], int]:
    """Of all pages; and how many pages there were."""
    found: list[str] = []
    for page in range(1, 9):
        after = {"after": found[-1]} if found else {}
        answer = await api.get(f"{BASE}/{kind}", params={"limit": limit, **after})
        assert len(answer.content) < 8 << 20
        found += [entry[field] for entry in answer.json()[kind]]
        if answer.json()["next_after"] is None:
            return found, page
    raise AssertionError("the pages do not end")


async def test_what_is_no_window_is_not_counted_value_by_value(api: AsyncClient, node: str) -> None:
    """A megabyte of nils, and arrays within arrays: refused after so many values."""
    headers = {"Content-Type": "application/msgpack"}
    for body in (
        b"\xdd\x00\x10\x00\x00" + b"\xc0" * (1 << 20),
        b"\xdd\x00\x0f\xff\xf8" + b"\xc0" * ((1 << 20) - 16),
        b"\x81\xa6layers\xdd\x00\x10\x00\x00" + b"\xc0" * (1 << 20),
        b"\x91" * (1 << 20),
    ):
        began = time.process_time()
        answer = await api.post(f"{node}/telemetry", content=body, headers=headers)
        assert answer.status_code in (400, 422), answer.text
        assert time.process_time() - began < 0.5


def test_everything_in_a_request_is_bounded() -> None:
    """Every text, list and object of every request body has a largest size, every number a range."""
    contract = create_app(Settings()).openapi()
    schemas = contract["components"]["schemas"]
    unbounded: list[str] = []

    def walk(schema: dict[str, Any], place: str, seen: frozenset[str]) -> Iterator[str]:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name not in seen and not name.startswith("Telemetry"):  # no wider than the largest window
                yield from walk(schemas[name], name, seen | {name})
            return
        for several in ("anyOf", "oneOf", "allOf"):
            for part in schema.get(several, ()):
                yield from walk(part, place, seen)
        kind = schema.get("type")
        if kind == "string" and not {"enum", "const", "maxLength", "format"} & schema.keys():
            yield f"{place}: text of any length"
        if kind in ("number", "integer") and not ({"maximum", "exclusiveMaximum", "enum"} & schema.keys()):
            yield f"{place}: any number"
        if kind == "array":
            if "maxItems" not in schema:
                yield f"{place}: list of any length"
            yield from walk(schema["items"], f"{place}[]", seen)
        for name, part in schema.get("properties", {}).items():
            yield from walk(part, f"{place}.{name}", seen)
        if (
            kind == "object"
            and "properties" not in schema
            and schema.get("additionalProperties") is not False
        ):
            if "maxProperties" not in schema:
                yield f"{place}: object of any size"
            if "maxLength" not in schema.get("propertyNames", {}):
                yield f"{place}: names of any length"
            if isinstance(schema.get("additionalProperties"), dict):
                yield from walk(schema["additionalProperties"], f"{place}.*", seen)

    bodies = 0
    for methods in contract["paths"].values():
        for operation in methods.values():
            if operation["operationId"] == "post_telemetry":
                continue  # its own limits are those of a window
            for content in operation.get("requestBody", {}).get("content", {}).values():
                bodies += 1
                unbounded += walk(content["schema"], operation["operationId"], frozenset())
    assert bodies > 12
    assert unbounded == []


async def test_a_process_survives_every_attack() -> None:
    """Under each attack of the load benchmark an API process stays below 512 MB and spends a second or two;
    none of them is a fault of the service (5xx), but that it has too much to do."""
    with servers.valkey() as redis, servers.api(redis.url) as service:
        await fleet.register(service.url, 1)
        statuses: set[int] = set()

        async def note(response: httpx.Response) -> None:
            statuses.add(response.status_code)

        hooks = {"response": [note]}
        async with AsyncClient(base_url=service.url, timeout=60, event_hooks=hooks) as client:
            for attack in ATTACKS:
                before = service.cpu_seconds()
                with contextlib.suppress(httpx.TransportError):  # it hangs up on a body it will not read
                    await attack(client, fleet.node_name(0))
                assert service.cpu_seconds() - before < 2.5, attack.__name__
                assert service.memory_bytes() < 512e6, attack.__name__
        assert statuses <= {200, 201, 400, 409, 413, 415, 422, 429, 431, 503}


def test_the_largest_honest_bodies_are_taken() -> None:
    """The limits leave room: a model eight times as large as DeepSeek V3 with digests, a full node."""
    from app.models.endpoints import MODEL
    from app.nodes.endpoints import HEARTBEAT

    digests = orjson.dumps(["a" * 64] * (8 * 58 * 256))
    assert len(digests) < MODEL.body_bytes
    assert digests.count(b",") < MODEL.values
    held = orjson.dumps(
        [{"model_id": "m" * 63, "layer": it, "experts": list(range(4096))} for it in range(64)]
    )
    assert len(held) < HEARTBEAT.body_bytes
    assert held.count(b",") < HEARTBEAT.values
