"""Real servers and processes for tests: one Valkey per test process, and `moeplace serve` on demand.

MOEPLACE_TEST_SERVER=/path/to/redis-server runs the whole suite on another server than the bundled one;
MOEPLACE_TEST_CLUSTER=1 gives the tests a Valkey Cluster where they would have a single server.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from redis.asyncio import Redis

from app.storage.client import open_client, servers_of
from app.storage.embedded import EmbeddedServer
from tests.service import Service, start_service
from tests.valkey_cluster import ValkeyCluster

# How long an example takes says something of the machine, and nothing of what is tested.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_CONFIGURED = os.environ.get("MOEPLACE_TEST_SERVER")
TEST_SERVER = Path(_CONFIGURED) if _CONFIGURED else None
ON_CLUSTER = bool(os.environ.get("MOEPLACE_TEST_CLUSTER"))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """Whoever runs the tests may have MOEPLACE_ variables set; tests state what they need."""
    for name in list(os.environ):
        if name.startswith("MOEPLACE_"):
            del os.environ[name]
    if TEST_SERVER is not None:
        os.environ["MOEPLACE_EMBEDDED_SERVER"] = str(TEST_SERVER)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path_factory.mktemp("redis"), binary=TEST_SERVER)
    server.spawn()
    try:
        asyncio.run(server.ready())
        yield server
    finally:
        server.kill()
        server.close()


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Three primaries that share the slots. Whoever breaks one starts a cluster of its own."""
    cluster = ValkeyCluster(tmp_path_factory.mktemp("cluster"), primaries=3, binary=TEST_SERVER)
    try:
        asyncio.run(cluster.join())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def shared_url(request: pytest.FixtureRequest) -> str:
    """URL of this process's server, as the last test left it."""
    return str(request.getfixturevalue("valkey_cluster" if ON_CLUSTER else "redis_server").url)


@pytest.fixture
def redis_url(shared_url: str) -> str:
    """URL of this process's server, emptied."""

    async def empty() -> None:
        async with open_client(shared_url) as client:
            await empty_servers(client)

    asyncio.run(empty())
    return shared_url


@pytest.fixture
async def redis(shared_url: str) -> AsyncIterator[Redis]:
    """A client of this process's server, emptied. Needs `@pytest.mark.anyio`."""
    async with open_client(shared_url) as client:
        await empty_servers(client)
        yield client


async def empty_servers(redis: Redis) -> None:
    for server in await servers_of(redis):
        await server.flushall()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start real `moeplace serve` processes: `serve(*options, env={...})`; whatever is left is killed."""
    started: list[Service] = []

    def start(*options: str, env: dict[str, str] | None = None, data_dir: Path | None = None) -> Service:
        service = start_service(*options, env=env or {}, data_dir=data_dir or tmp_path / "data")
        started.append(service)
        return service

    yield start
    for service in started:
        service.kill_all()
