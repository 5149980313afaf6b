"""Pictures of the console from a fleet that runs for them: `python -m docs.pictures.console docs`.

The demo's service and nodes start; once they have settled two nodes exchange their domains, as in the demo,
and what the console then shows is kept as console.png (the placement) and console-migration.png (its plan).
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from httpx import AsyncClient
from playwright.async_api import expect

from lab.demo.scenario import CLUSTER_ID, NODES, SWAPPED
from tests.console.browser import Tab, opened_tab, started_browser
from tests.console.fleet import RunningFleet, running_fleet
from tests.console.steps import generation, settled

WIDTH, HEIGHT = 1280, 660
SETTLE_SECONDS = 90
LAYER = "3"


async def take(fleet: RunningFleet, folder: Path) -> None:
    async with AsyncClient(base_url=fleet.cluster_url, timeout=30) as api:
        await wait_until_settled(api, 1)
        before = await generation(api)
        domains = {node.node_id: node.domain for node in NODES}
        first, second = SWAPPED
        fleet.switch(first, domains[second])
        fleet.switch(second, domains[first])
        await wait_until_settled(api, before + 1)
    async with (
        started_browser() as browser,
        opened_tab(browser, fleet.url, width=WIDTH, height=HEIGHT) as tab,
    ):
        await tab.show(f"#/{CLUSTER_ID}/placement")
        await tab.page.get_by_label("Layer", exact=True).first.select_option(LAYER)
        await expect(tab.page.get_by_text(f"in layer {LAYER} of")).to_be_visible()
        await tab.page.locator("canvas[role=application]").focus()
        for key in ("ArrowRight",) * 16:
            await tab.page.keyboard.press(key)
        await tab.page.mouse.move(0, 0)
        await keep(tab, folder / "console.png")
        await tab.show(f"#/{CLUSTER_ID}/migrations")
        await expect(tab.page.get_by_label("Moves over time", exact=False)).to_be_visible()
        await keep(tab, folder / "console-migration.png")


async def wait_until_settled(api: AsyncClient, at_least: int) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        if await settled(api, at_least):
            return
        await asyncio.sleep(0.5)
    raise SystemExit("the fleet has not settled in time: try again on a quieter machine")


async def keep(tab: Tab, path: Path) -> None:
    await tab.page.wait_for_timeout(1000)
    picture = await tab.page.screenshot(path=path, full_page=True)
    print(f"{path}: {len(picture) / 1000:.0f} kB")


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m docs.pictures.console FOLDER")
    with tempfile.TemporaryDirectory() as directory, running_fleet(Path(directory)) as fleet:
        asyncio.run(take(fleet, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
