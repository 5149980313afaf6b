"""The console in a headless browser, on a real service with a real fleet of four nodes."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from httpx import AsyncClient
from playwright.async_api import Browser

from app.config import Settings
from app.main import create_app
from tests.console.browser import Tab, chromium_path, opened_tab, started_browser
from tests.console.fleet import RunningFleet, running_fleet
from tests.console.steps import exchange, generation, settled

SETTLED_SECONDS = 60


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with started_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """Settled, with two more placements for a history; from now on new ones come from tests alone."""
    chromium_path()
    with running_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        asyncio.run(_prepare(fleet))
        yield fleet


async def _prepare(fleet: RunningFleet) -> None:
    cluster = fleet.cluster_url
    async with AsyncClient(base_url=cluster, timeout=60) as api:
        await _until_settled(api)
        settings = (await api.get(cluster)).json()["settings"]
        (await api.put(cluster, json={**settings, "automatic": False})).raise_for_status()
        # Solves come one after another: when this one has ended, so has what was begun before.
        await api.post("/optimizations", json={"validate_only": True}, headers={"Prefer": "wait=30"})
        for _ in range(2):
            await exchange(api)
        await _until_settled(api)


async def _until_settled(api: AsyncClient) -> None:
    deadline = time.monotonic() + SETTLED_SECONDS
    while time.monotonic() < deadline:
        if await settled(api):
            return
        await asyncio.sleep(0.2)
    status = await api.get("/placement/status")
    raise AssertionError(f"the fleet has not settled: {status.text}")


@pytest.fixture
async def api(fleet: RunningFleet) -> AsyncIterator[AsyncClient]:
    """The fleet's cluster, as any client of the API sees it."""
    async with AsyncClient(base_url=fleet.cluster_url, timeout=30) as client:
        yield client


@pytest.fixture
async def in_force(api: AsyncClient) -> int:
    """The generation in force, which stays so unless the test changes it."""
    return await generation(api)


@pytest.fixture
async def tab(browser: Browser, fleet: RunningFleet) -> AsyncIterator[Tab]:
    """A tab that must not have complained about anything when the test is over."""
    async with opened_tab(browser, fleet.url) as tab:
        yield tab
        assert tab.complaints == []


@pytest.fixture
def open_tab(browser: Browser) -> Callable[..., object]:
    """For tests that want another address, theme or size."""
    return lambda url, **options: opened_tab(browser, url, **options)


@pytest.fixture
def serve_api(redis_url: str) -> Iterator[Callable[..., str]]:
    """Serve the API alone, without a worker, on an emptied server; `serve_api(**settings)` is its URL."""
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(**settings: Any) -> str:
        app = create_app(Settings(redis_url=redis_url, **settings))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        started.append((server, thread))
        while not server.started:
            assert thread.is_alive(), "the API did not start"
            time.sleep(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield serve
    for server, thread in started:
        server.should_exit = True
        thread.join(20)
