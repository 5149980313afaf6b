"""Without tokens, pages of other sites cannot ask for anything; programs, and the console's own page, can."""

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from redis.asyncio import Redis

from app.access.site import host_name
from app.config import Settings
from app.main import create_app
from tests.app.access.fleet import client_of, started

pytestmark = pytest.mark.anyio

OWN_HOSTS = ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080", "127.8.9.1", "a.localhost:1"]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:8080",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "192.0.2.1",
    "127.0.0.1@evil.example",
    "moeplace",
    "127.0.0.1, evil.example",
]
FOREIGN_PAGES = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8080.evil.example"},
    {"Origin": "chrome-extension://127.0.0.1:8080"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_a_name_made_to_lead_here_mints_no_token(api: AsyncClient, host: str) -> None:
    """DNS rebinding: the browser takes a foreign name for this service, and gets nothing, read or written."""
    for method, path in (("POST", "/v1/tokens"), ("GET", "/v1/clusters"), ("GET", "/metrics")):
        answer = await api.request(method, path, json={"role": "OPERATOR"}, headers={"Host": host})
        assert answer.status_code == 421, (method, path)
        assert answer.json()["errors"][0]["pointer"] == "header:Host"
    assert (await api.get("/v1/clusters")).status_code == 200  # no token was issued: nobody is asked for one


@pytest.mark.parametrize("host", OWN_HOSTS)
async def test_names_of_loopback_are_answered(api: AsyncClient, host: str) -> None:
    """Whatever a program of this machine calls the service by."""
    assert (await api.get("/v1/clusters", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN_PAGES)
async def test_a_page_of_another_site_changes_nothing(api: AsyncClient, headers: dict[str, str]) -> None:
    """A page may send a POST to any address without asking; it is refused, by fast and by plain routes."""
    assert (await api.put("/v1/clusters/east", json={})).status_code == 201
    headers = {"Host": "127.0.0.1:8080", **headers}
    for path in ("/v1/clusters/east/placement:pause", "/v1/clusters/east/nodes/n/telemetry"):
        answer = await api.post(path, headers=headers)
        assert answer.status_code == 403, path
        assert answer.json()["type"] == "/problems/foreign-site"
    assert (await api.get("/v1/clusters/east", headers=headers)).status_code == 200


async def test_the_console_and_programs_may(api: AsyncClient) -> None:
    """The service's own page has its own origin; agents and curl have none."""
    assert (await api.put("/v1/clusters/east", json={})).status_code == 201
    own = {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}
    for headers in (own, {"Sec-Fetch-Site": "none"}, {}):
        paused = await api.post("/v1/clusters/east/placement:pause", headers=headers)
        assert paused.status_code == 200


async def test_hosts_may_be_named(shared_url: str, redis: Redis) -> None:
    """By MOEPLACE_ALLOWED_HOSTS: a proxy's name, which pages then come from too."""
    app = create_app(Settings(redis_url=shared_url, allowed_hosts="fleet.example, 10.0.0.7"))
    async with app.router.lifespan_context(app), client_of(app) as client:
        for host in ("fleet.example", "Fleet.Example:443", "10.0.0.7:80"):
            assert (await client.get("/v1/clusters", headers={"Host": host})).status_code == 200
        page = {"Origin": "https://fleet.example", "Sec-Fetch-Site": "same-origin"}
        assert (await client.put("/v1/clusters/c", json={}, headers=page)).status_code == 201
        assert (await client.get("/v1/clusters", headers={"Host": "x.fleet.example"})).status_code == 421


async def test_an_open_service_on_the_network_knows_addresses_and_local_names(
    shared_url: str, redis: Redis
) -> None:
    """Nobody can register those, so no foreign page has them; a public name has to be listed."""
    app = create_app(Settings(redis_url=shared_url, host="0.0.0.0", allow_unauthenticated=True))
    async with app.router.lifespan_context(app), client_of(app) as client:
        for host in ("10.0.0.2:8080", "[fd00::1]", "api:8080", "moeplace.default.svc:80", "box.local"):
            assert (await client.get("/v1/clusters", headers={"Host": host})).status_code == 200, host
        assert (await client.get("/v1/clusters", headers={"Host": "evil.example"})).status_code == 421


async def test_with_tokens_any_host_will_do(shared_url: str, redis: Redis) -> None:
    """A page without a token gets nothing anyway, and proxies have names of their own."""
    async with started(shared_url) as app, client_of(app) as client:
        assert (await client.get("/v1/clusters", headers={"Host": "fleet.example"})).status_code == 401


async def test_probes_and_pages_are_open(application: FastAPI, api: AsyncClient) -> None:
    """What tells nothing of a fleet asks for no name."""
    for path in ("/healthz", "/docs", "/openapi.json", "/"):
        assert (await api.get(path, headers={"Host": "node.example"})).status_code == 200, path


def test_what_is_no_host_has_no_name() -> None:
    """Of an authority that is malformed nothing is taken for a name."""
    for authority in ("", "a b", "a/b", "a@b", "a:port", "[::1", "a,b"):
        assert host_name(authority) is None, authority
    assert host_name("A.Example.:80") == "a.example"
