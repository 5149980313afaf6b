"""A headless browser that notices everything a page complains about."""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
WAIT_MILLISECONDS = 20_000
SEVERE = {"serious", "critical"}


def chromium_path() -> str:
    """The system's Chromium; skips without it on a developer's machine, and fails where CI runs."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        missing = "no Chromium on this machine: make tools installs it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


@contextlib.asynccontextmanager
async def started_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # As root there is no sandbox to be had; the pages are our own.
        browser = await playwright.chromium.launch(
            executable_path=chromium_path(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Tab:
    """A page, and what went wrong on it."""

    page: Page
    base_url: str
    complaints: list[str] = field(default_factory=list)

    async def show(self, path: str = "") -> None:
        await self.page.goto(f"{self.base_url}/{path}")

    async def axe(self, tag: str | None = None) -> list[str]:
        """Serious and critical violations of the rules that axe knows; with `tag`, of those so tagged."""
        if not await self.page.evaluate("() => 'axe' in window"):
            await self.page.evaluate(AXE.read_text())
        options = {"resultTypes": ["violations"]} | ({"runOnly": [tag]} if tag else {})
        found: dict[str, Any] = await self.page.evaluate("options => axe.run(document, options)", options)
        assert found["passes"], "axe judged nothing"
        return [
            f"{violation['id']} ({violation['impact']}): {node['target']} {node['failureSummary']}"
            for violation in found["violations"]
            if violation["impact"] in SEVERE
            for node in violation["nodes"]
        ]


@contextlib.asynccontextmanager
async def opened_tab(
    browser: Browser, base_url: str, *, dark: bool = False, width: int = 1360, height: int = 900
) -> AsyncIterator[Tab]:
    context = await browser.new_context(
        color_scheme="dark" if dark else "light",
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
    )
    page = await context.new_page()
    page.set_default_timeout(WAIT_MILLISECONDS)
    tab = Tab(page, base_url)

    def hear(message: ConsoleMessage) -> None:
        # That something is not there (yet) is an answer, and Chromium calls it an error all the same.
        if message.type == "error" and "the server responded with a status of 404" not in message.text:
            tab.complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    await page.add_init_script(
        "document.addEventListener('securitypolicyviolation', (event) => "
        "console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));"
    )
    try:
        yield tab
    finally:
        await context.close()
