"""Tokens: shown once, kept as digests, good until they expire or are revoked, and cheap to check."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from redis.asyncio import Redis
from starlette.types import Scope

from app.access import store
from app.access.record import TokenRecord
from app.access.roles import Role
from app.access.secret import PREFIX, digest_of, make_token, name_of
from app.storage.client import servers_of
from app.storage.keys import EVERYWHERE, ClusterKeys
from tests.app.access.fleet import OPERATOR, client_of, issue, started

pytestmark = pytest.mark.anyio

READER = {"role": "READER", "note": "Ada"}


@pytest.fixture
async def app(shared_url: str, redis: Redis) -> AsyncIterator[FastAPI]:
    async with started(shared_url) as app:
        yield app


async def until(ask: Callable[[], Awaitable[Response]], status: int, within_seconds: float = 20) -> float:
    """Seconds until the answer has the status."""
    began = time.monotonic()
    while (answer := await ask()).status_code != status:
        assert time.monotonic() - began < within_seconds, f"still {answer.status_code}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_token_is_told_once_and_kept_as_a_digest(app: FastAPI, redis: Redis) -> None:
    """Nothing in Redis holds the secret; lists show the rest, a page at a time."""
    issued = [await issue(app, "east", {**READER, "expires_in_seconds": 3600.0}) for _ in range(3)]
    secret = issued[0]["token"].rpartition("~")[2]
    assert issued[0]["token"].startswith(f"{PREFIX}east~{issued[0]['token_id']}~")
    for server in await servers_of(redis):
        async for key in server.scan_iter():
            assert secret.encode() not in (await server.dump(key) or b"")
    async with client_of(app, OPERATOR) as client:
        first = (await client.get("/v1/clusters/east/tokens?limit=2")).json()
        rest = (await client.get(f"/v1/clusters/east/tokens?after={first['next_after']}")).json()
    listed = first["tokens"] + rest["tokens"]
    assert rest["next_after"] is None
    assert {token["token_id"] for token in listed} == {token["token_id"] for token in issued}
    assert all("token" not in token and token["note"] == "Ada" for token in listed)
    assert all(token["created_by"] == "operator-setting" and token["expires_at"] for token in listed)


async def test_nonsense_is_refused_with_the_field(app: FastAPI) -> None:
    """A node's token needs its node, others have none, and all clusters have no nodes."""
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/clusters/east/tokens", {"role": "NODE"}, "node_id: expected with the role NODE"),
        (
            "/v1/clusters/east/tokens",
            {"role": "READER", "node_id": "a"},
            "node_id: expected with the role NODE",
        ),
        ("/v1/tokens", {"role": "NODE"}, "belongs to one cluster"),
        ("/v1/tokens", {"role": "KING"}, "/role"),
        ("/v1/tokens", {"role": "READER", "expires_in_seconds": 0.0}, "/expires_in_seconds"),
    ]
    async with client_of(app, OPERATOR) as client:
        for path, body, words in cases:
            answer = await client.post(path, json=body)
            assert answer.status_code == 422
            assert words in answer.json()["detail"]


async def test_revocation_reaches_every_process(app: FastAPI, shared_url: str) -> None:
    """A token that both processes know is refused by both within a second of its end at one of them."""
    token = await issue(app, "east", READER)
    async with (
        started(shared_url) as other,
        client_of(app, token["token"]) as here,
        client_of(other, token["token"]) as there,
        client_of(app, OPERATOR) as operator,
    ):
        for client in (here, there):
            assert (await client.get("/v1/clusters/east")).status_code == 200
        path = f"/v1/clusters/east/tokens/{token['token_id']}"
        assert (await operator.delete(path)).status_code == 204
        assert await until(lambda: there.get("/v1/clusters/east"), 401) < 2
        assert await until(lambda: here.get("/v1/clusters/east"), 401) < 2
        assert (await operator.delete(path)).status_code == 404


async def test_revocation_while_nobody_listens(app: FastAPI, redis: Redis) -> None:
    """Where the announcement is lost with the connection, the next connection makes good for it."""
    token = await issue(app, "east", READER)
    async with client_of(app, token["token"]) as client:
        assert (await client.get("/v1/clusters/east")).status_code == 200
        for server in await servers_of(redis):
            await server.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
        await redis.hdel(ClusterKeys("east").tokens, token["token_id"])  # and nothing is announced
        await until(lambda: client.get("/v1/clusters/east"), 401)


async def test_tokens_go_with_their_cluster(app: FastAPI) -> None:
    """A cluster that is made anew under the same id does not know those of the one before."""
    token = await issue(app, "east", READER)
    async with client_of(app, token["token"]) as client, client_of(app, OPERATOR) as operator:
        assert (await client.get("/v1/clusters/east")).status_code == 200
        assert (await operator.delete("/v1/clusters/east")).status_code == 204
        assert (await operator.put("/v1/clusters/east", json={})).status_code == 201
        await until(lambda: client.get("/v1/clusters/east"), 401)


async def test_expiry(app: FastAPI, redis: Redis) -> None:
    """A token that a process knows well ends with its time."""
    token = await issue(app, "east", {**READER, "expires_in_seconds": 0.5})
    async with client_of(app, token["token"]) as client:
        assert (await client.get("/v1/clusters/east")).status_code == 200
        await until(lambda: client.get("/v1/clusters/east"), 401)
        answer = await client.get("/v1/clusters/east")
    assert answer.json()["detail"] == "the token has expired"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_expired_tokens_make_room(app: FastAPI, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be so many of a cluster, of which those that have expired do not count."""
    monkeypatch.setattr(store, "MAX_TOKENS", 2)
    await issue(app, "east", READER)
    name, text = make_token("east")
    old = datetime.now(UTC) - timedelta(days=1)
    record = TokenRecord(
        token_id=name.token_id,
        role=Role.READER,
        cluster_id="east",
        node_id=None,
        note="",
        created_at=old,
        created_by="nobody",
        expires_at=old,
        digest=digest_of(text).hex(),
    )
    await store.add(redis, "east", record)
    await issue(app, "east", READER)
    async with client_of(app, OPERATOR) as operator:
        answer = await operator.post("/v1/clusters/east/tokens", json=READER)
        assert answer.status_code == 409
        listed = (await operator.get("/v1/clusters/east/tokens")).json()["tokens"]
    assert name.token_id not in {token["token_id"] for token in listed}


async def test_a_known_token_costs_redis_nothing(app: FastAPI, redis: Redis) -> None:
    """Once seen, a hundred requests with it ask Redis for nothing; that it was used is on record."""
    token = await issue(app, "east", READER)
    scope: Scope = {"type": "http", "headers": [(b"authorization", f"Bearer {token['token']}".encode())]}
    servers = await servers_of(redis)
    # The announcement of the token itself may come after it was looked at first.
    async with asyncio.timeout(10):
        while not app.state.authentication._known:
            await app.state.authentication.who(scope)
            await asyncio.sleep(0.05)
    for server in servers:
        await server.config_resetstat()
    principals = [await app.state.authentication.who(scope) for _ in range(100)]
    [principal] = set(principals)
    assert (principal.token_id, principal.role) == (token["token_id"], Role.READER)
    for server in servers:
        statistics = await server.info("commandstats")
        assert not {"cmdstat_hget", "cmdstat_hset", "cmdstat_exists"} & set(statistics)
    async with client_of(app, OPERATOR) as operator:
        [listed] = (await operator.get("/v1/clusters/east/tokens")).json()["tokens"]
    assert abs(datetime.fromisoformat(listed["last_used_at"]).timestamp() - time.time()) < 60


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic b3BlcmF0b3I=",
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 60_000,
        b"Bearer mpl_~~",
    ],
)
async def test_any_header_is_answered(app: FastAPI, header: bytes) -> None:
    """Whatever is sent for a token is refused with 401."""
    async with client_of(app) as client:
        answer = await client.get("/v1/clusters", headers=[(b"Authorization", header)])
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        twice = [(b"Authorization", f"Bearer {OPERATOR}".encode())] * 2
        assert (await client.get("/v1/clusters", headers=twice)).status_code == 401


async def test_guessing_is_slowed_down_and_locks_nobody_out(shared_url: str, redis: Redis) -> None:
    """Beyond so many wrong tokens of an address, wrong ones are refused with 429, IPv6 neighbours counting as
    one; a right token goes on from there, also one that this process has not seen before."""
    async with started(shared_url, failed_authentications_per_minute=5) as app:
        known = await issue(app, "east", READER)
        fresh = await issue(app, "east", READER)
        wrong = known["token"][:-1] + ("A" if known["token"][-1] != "A" else "B")

        async def ask(token: str, address: str) -> Response:
            async with client_of(app, token, address=address) as client:
                return await client.get("/v1/clusters/east")

        assert (await ask(known["token"], "2001:db8::1")).status_code == 200
        assert [(await ask(wrong, f"2001:db8::{n}")).status_code for n in range(5)] == [401] * 5
        refused = await ask(wrong, "2001:db8::ffff")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert (await ask(fresh["token"], "2001:db8::ffff")).status_code == 200
        assert (await ask(known["token"], "2001:db8::1")).status_code == 200
        assert (await ask(wrong, "2001:db8:1::1")).status_code == 401


async def test_a_token_may_ask_so_often(shared_url: str, redis: Redis) -> None:
    """Beyond its rate it is told when to come again, and others are not held up by it."""
    async with started(shared_url, token_requests_per_second=1) as app:
        greedy, modest = [await issue(app, "east", READER) for _ in range(2)]
        async with client_of(app, greedy["token"]) as client:
            answers = [await client.get("/v1/clusters/east") for _ in range(30)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 20  # ten in ten seconds
        assert 1 <= int(refused[0].headers["retry-after"]) <= 10
        async with client_of(app, modest["token"]) as client:
            assert (await client.get("/v1/clusters/east")).status_code == 200


async def test_the_first_token_closes_the_door(application: FastAPI, api: AsyncClient, redis: Redis) -> None:
    """On loopback nobody is asked until a token is issued; from then on everybody is, at once and after a
    restart, also when the token was revoked since."""
    assert (await api.put("/v1/clusters/east", json={})).status_code == 201
    first = (await api.post("/v1/tokens", json={"role": "OPERATOR"})).json()
    assert first["created_by"] == "anonymous"
    await until(lambda: api.get("/v1/clusters/east"), 401)
    async with client_of(application, first["token"]) as client:
        assert (await client.get("/v1/clusters/east")).status_code == 200
        assert (await client.delete(f"/v1/tokens/{first['token_id']}")).status_code == 204
        await until(lambda: client.get("/v1/clusters/east"), 401)
    assert await store.tokens_issued(redis)


async def test_metrics_may_be_opened(shared_url: str, redis: Redis) -> None:
    """By a setting of its own, for a Prometheus without a token."""
    async with started(shared_url, open_metrics=True) as app, client_of(app) as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/v1/clusters")).status_code == 401


async def test_an_open_service_looks_at_no_token(shared_url: str, redis: Redis) -> None:
    """Where the network is trusted by name, also after tokens were issued."""
    from app.config import Settings
    from app.main import create_app

    app = create_app(Settings(redis_url=shared_url, host="0.0.0.0", allow_unauthenticated=True))
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.post("/v1/tokens", json={"role": "OPERATOR"})).status_code == 201
        await asyncio.sleep(0.2)
        assert (await client.get("/v1/clusters")).status_code == 200


def test_names_of_tokens() -> None:
    """A token tells where it is kept and its id; what is none has no name."""
    for scope in (EVERYWHERE, "east", "a.b-c_d"):
        name, text = make_token(scope)
        assert name_of(text) == name
        assert name.scope == scope
        assert name_of(text + "x") is None
        assert name_of(text[:-1]) is None
    assert name_of("") is None
    assert name_of(PREFIX) is None


async def test_one_token_cannot_hold_all_long_polls(shared_url: str, redis: Redis) -> None:
    """A quarter of them is what it may have waiting: beyond, 429. Others still wait, and so may it again when
    one of its own has ended."""
    async with started(shared_url, max_waiters=8, token_requests_per_second=0) as app:
        greedy, modest = [await issue(app, "east", READER) for _ in range(2)]

        async def poll(token: str, seconds: int) -> Response:
            async with client_of(app, token) as client:
                path = "/v1/clusters/east/placement/status"
                return await client.get(path, headers={"Prefer": f"wait={seconds}"})

        holding = [asyncio.create_task(poll(greedy["token"], 20)) for _ in range(2)]
        for _ in range(1000):
            if app.state.waiters.count == 2:
                break
            await asyncio.sleep(0.01)
        refused = await poll(greedy["token"], 1)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert (await poll(modest["token"], 1)).status_code == 404  # it waited, and nothing came
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
        await until(lambda: poll(greedy["token"], 1), 404)
