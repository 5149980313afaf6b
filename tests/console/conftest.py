"""The console in a headless browser, on a real service with a real fleet of four nodes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from httpx import AsyncClient
from playwright.async_api import Browser

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
    """Running since its first generation, which is carried out: there is something of everything to see."""
    chromium_path()
    with running_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        asyncio.run(_wait_until_settled(fleet))
        yield fleet


async def _wait_until_settled(fleet: RunningFleet) -> None:
    async with AsyncClient(base_url=fleet.cluster_url, timeout=30) as api:
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
async def paused(api: AsyncClient) -> AsyncIterator[int]:
    """Automatic recomputation is paused, and one generation at least is there to go back to; the generation
    in force."""
    (await api.post("/placement:pause")).raise_for_status()
    if await generation(api) < 2:
        await exchange(api)
    yield await generation(api)
    (await api.post("/placement:resume")).raise_for_status()


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
