"""Every route with every kind of token: nobody gets further than the rules say, and every route has one."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import FastAPI
from redis.asyncio import Redis
from starlette.routing import Mount, Route

from app.access.rules import RULES, Rule
from app.config import Settings
from app.main import create_app
from app.storage.workers import beat
from tests.app.access.fleet import OPERATOR, TOKENS, client_of, issue, started

pytestmark = pytest.mark.anyio

EVERYWHERE = {"operator", "the setting's"}
EAST_OPERATORS = EVERYWHERE | {"east operator"}
EAST_READERS = EAST_OPERATORS | {"reader", "east reader"}
EAST_NODES = {"east node a", "east node b"}

BELOW_EAST: dict[Rule, set[str]] = {
    Rule.READ: EAST_READERS,
    Rule.READ_BY_NODES: EAST_READERS | EAST_NODES,
    Rule.READ_BY_NODE: EAST_READERS | {"east node a"},
    Rule.REPORT: EAST_OPERATORS | {"east node a"},
    Rule.REPORT_MOVE: EAST_OPERATORS | EAST_NODES,
    Rule.OPERATE: EAST_OPERATORS,
}
"""Who may, below cluster east and node a; for a move, the application looks further whose it is."""

ABOVE_CLUSTERS: dict[Rule, set[str]] = {
    Rule.LISTING: set(TOKENS) | {"the setting's"},
    Rule.READ: EVERYWHERE | {"reader"},
    Rule.METRICS: EVERYWHERE | {"reader"},
    Rule.OPERATE: EVERYWHERE,
}
NODE_WRITES = {
    "PUT /v1/clusters/{cluster_id}/nodes/{node_id}",
    "PUT /v1/clusters/{cluster_id}/nodes/{node_id}/status",
    "POST /v1/clusters/{cluster_id}/nodes/{node_id}/telemetry",
    "POST /v1/clusters/{cluster_id}/nodes/{node_id}/move_reports",
    "PUT /v1/clusters/{cluster_id}/migration_plans/{plan_id}/moves/{move_id}/report",
}
PLACES = {"cluster_id": "east", "node_id": "a", "generation": "1", "token_id": "0" * 16}


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and template of every route there is, also of those no document has."""
    behind_routers = [route for route in app.state.routes if isinstance(route, Route)]
    for route in [*app.router.routes, *behind_routers]:
        assert not isinstance(route, Mount), f"{route.path}: who may see it?"
        if isinstance(route, Route):
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, route.path


@pytest.fixture
async def guarded(shared_url: str, redis: Redis) -> AsyncIterator[tuple[FastAPI, dict[str, str]]]:
    """The application, with two live nodes in each cluster, and the tokens by name."""
    async with started(
        shared_url, token_requests_per_second=0, failed_authentications_per_minute=10_000
    ) as app:
        tokens = {name: (await issue(app, *wanted))["token"] for name, wanted in TOKENS.items()}
        tokens["the setting's"] = OPERATOR
        await beat(redis, "worker", 3600)
        async with client_of(app, OPERATOR) as client:
            for cluster in ("east", "west"):
                for node in ("a", "b"):
                    spec = {"instance_uid": "i", "devices": [{"device_id": "gpu0", "memory_bytes": 1}]}
                    registered = await client.put(f"/v1/clusters/{cluster}/nodes/{node}", json=spec)
                    assert registered.status_code == 201
        yield app, tokens


def test_the_table_has_every_route_and_no_other() -> None:
    """A new route needs a rule, and a rule without a route is a mistake."""
    assert set(RULES) == {f"{method} {template}" for method, template in routes_of(create_app(Settings()))}


def test_what_changes_something_is_for_operators_or_the_node_itself() -> None:
    """No reader writes, and nodes write what is listed here alone."""
    for route, rule in RULES.items():
        if not route.startswith("GET "):
            expected = {Rule.REPORT, Rule.REPORT_MOVE} if route in NODE_WRITES else {Rule.OPERATE}
            assert rule in expected, route


async def test_every_route_with_every_token(guarded: tuple[FastAPI, dict[str, str]]) -> None:
    """Those the rule names are authorised, everybody else gets 401 or 403 with the reason."""
    app, tokens = guarded
    strangers = {"none": None, "garbage": "mpl_x", "like one": "mpl_east~" + "0" * 16 + "~" + "A" * 43}
    clients = {name: client_of(app, token) for name, token in {**tokens, **strangers}.items()}
    tried = 0
    for method, template in sorted(set(routes_of(app))):
        rule = RULES[f"{method} {template}"]
        allowed = (BELOW_EAST if "{cluster_id}" in template else ABOVE_CLUSTERS).get(rule)
        path = re.sub(r"\{(\w+)\}", lambda name: PLACES.get(name[1], "x"), template)
        for name, client in clients.items():
            # No body that anything could be done with: who is let in is told what is wrong with it.
            answer = await client.request(method, path)
            tried += 1
            where = f"{method} {template} with {name}: {answer.status_code} {answer.text[:200]}"
            if rule is Rule.OPEN or (allowed is not None and name in allowed):
                assert answer.status_code < 500, where
                assert answer.status_code not in (401, 403, 429), where
                continue
            assert answer.status_code == (401 if name in strangers else 403), where
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"].startswith('Bearer realm="moeplace"')
            if answer.status_code == 403:
                assert re.search("needs a token of|of another (cluster|node)", answer.json()["detail"]), where
    for client in clients.values():
        await client.aclose()
    assert tried > 500


async def test_a_stream_ends_with_its_token(
    guarded: tuple[FastAPI, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent before the token was revoked stays accepted; nothing after it is read."""
    app, _ = guarded
    monkeypatch.setattr("app.telemetry.endpoints.TRUSTED_SECONDS", 0.0)
    issued = await issue(app, "east", {"role": "NODE", "node_id": "a"})
    asked: list[int] = []
    async with client_of(app, OPERATOR) as operator, client_of(app, issued["token"]) as node:

        async def lines() -> AsyncIterator[bytes]:
            for number in range(3):
                asked.append(number)
                yield b"{}\n"
            revoked = await operator.delete(f"/v1/clusters/east/tokens/{issued['token_id']}")
            assert revoked.status_code == 204
            for number in range(3, 1000):
                asked.append(number)
                yield b"{}\n"
                await asyncio.sleep(0.01)  # the announcement takes its way

        path = "/v1/clusters/east/nodes/a/telemetry"
        answer = await node.post(path, content=lines(), headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 401
    assert "was revoked" in answer.json()["detail"]
    assert 3 < len(asked) < 500


async def test_a_cluster_lists_itself(guarded: tuple[FastAPI, dict[str, str]]) -> None:
    """A token of one cluster does not learn which others there are."""
    app, tokens = guarded
    for name, expected in {
        "east reader": ["east"],
        "west node a": ["west"],
        "reader": ["east", "west"],
    }.items():
        async with client_of(app, tokens[name]) as client:
            assert (await client.get("/v1/clusters")).json() == {"clusters": expected}


async def test_the_contract_says_who_may(guarded: tuple[FastAPI, dict[str, str]]) -> None:
    """Every operation of the contract names the roles, and the refusals of those that authorise."""
    contract = guarded[0].openapi()
    for template, methods in contract["paths"].items():
        for method, operation in methods.items():
            roles = [role for entry in operation["security"] for role in entry["token"]]
            if RULES[f"{method.upper()} {template}"] is Rule.OPEN:
                assert roles == []
            else:
                assert roles[0] == "OPERATOR"
                assert {"401", "403", "429"} <= set(operation["responses"])
