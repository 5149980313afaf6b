"""Before there is anything to see: the console teaches what to do, and what it says works."""

import asyncio
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
import uvicorn
from playwright.async_api import expect

from app.config import Settings
from app.main import create_app
from tests.console.browser import Tab

pytestmark = pytest.mark.anyio

OpenTab = Callable[..., AbstractAsyncContextManager[Tab]]


@pytest.fixture
def empty_service(redis_url: str) -> Iterator[str]:
    """An API without clusters (and without a worker) on a real server and port."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(Settings(redis_url=redis_url)), port=0, log_config=None)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


async def test_commands_shown_make_a_cluster(empty_service: str, open_tab: OpenTab) -> None:
    """The lines as shown, run by a shell, register a model and two nodes; the page notices by itself and says
    what is missing next."""
    async with open_tab(empty_service) as tab:
        await tab.show()
        await expect(tab.page.get_by_role("heading", name="No cluster yet")).to_be_visible()
        assert await tab.axe() == []
        lines = await tab.page.locator("pre").first.inner_text()
        made = lines.replace("\\\n", " ")
        for line in made.splitlines():
            if line.startswith("curl"):
                command = ["curl", "-sS", "--fail-with-body", *shlex.split(line)[1:]]
                await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=30)
        await tab.page.reload()
        await expect(
            tab.page.get_by_role("heading", name=re.compile("has nothing to show yet"))
        ).to_be_visible()
        await expect(tab.page.locator("main")).to_contain_text("Models and nodes are registered")
        assert await tab.axe() == []
        assert tab.complaints == []
