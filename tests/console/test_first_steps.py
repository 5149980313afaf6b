"""Before there is anything to see: the console teaches what to do, and what it says works."""

import asyncio
import re
import shlex
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from playwright.async_api import expect

from tests.console.browser import Tab

pytestmark = pytest.mark.anyio

OpenTab = Callable[..., AbstractAsyncContextManager[Tab]]
ServeApi = Callable[..., str]


async def test_commands_shown_make_a_cluster(serve_api: ServeApi, open_tab: OpenTab) -> None:
    """The lines as shown, run by a shell, register a model and two nodes; the page notices by itself and says
    what is missing next."""
    async with open_tab(serve_api()) as tab:
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
