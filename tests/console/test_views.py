"""Every view on a running fleet: what it shows is what the API says, for eyes, keys and readers."""

import os
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from httpx import AsyncClient
from playwright.async_api import expect

from app.demo.scenario import NODES, PEER_SECONDS
from tests.console.browser import Tab
from tests.console.fleet import RunningFleet
from tests.console.steps import VIEWS, read, rows, show_view

pytestmark = pytest.mark.anyio

OpenTab = Callable[..., AbstractAsyncContextManager[Tab]]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_no_view_has_a_serious_fault(fleet: RunningFleet, open_tab: OpenTab, dark: bool) -> None:
    """axe finds nothing serious on any view (in the dark, where only colours differ, by its rules on them);
    neither the policy nor a script complains. CONSOLE_PICTURES=folder keeps pictures to be looked at."""
    folder = os.environ.get("CONSOLE_PICTURES")
    async with open_tab(fleet.url, dark=dark) as tab:
        for view in VIEWS:
            await show_view(tab, view)
            if view == "history":
                await tab.page.get_by_role("button", name="Compare").click()
                await expect(
                    tab.page.get_by_text(re.compile("would take|Nothing to do|is not known"))
                ).to_be_visible()
            assert await tab.axe("cat.color" if dark else None) == [], view
            if folder:
                name = f"{view}-{'dark' if dark else 'light'}.png"
                await tab.page.screenshot(path=Path(folder) / name, full_page=True)
        assert tab.complaints == []


async def test_narrow_screens_lose_nothing(fleet: RunningFleet, open_tab: OpenTab) -> None:
    """On a telephone the page itself never scrolls sideways: wide things scroll in their own frames."""
    async with open_tab(fleet.url, width=390, height=800) as tab:
        for view in VIEWS:
            await show_view(tab, view)
            wide = await tab.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, view
        assert tab.complaints == []


async def test_the_fleet_is_told_as_the_analysis_has_it(tab: Tab, api: AsyncClient) -> None:
    """A row for each node with its health and memory in words and numbers, and the generation above."""
    await show_view(tab, "fleet")
    await expect(tab.page.get_by_role("row")).not_to_have_count(0)
    overview = await read(api, "/analysis/overview")
    told = {row[0]: row for row in await rows(tab.page, "Nodes")}
    assert set(told) == {node["node_id"] for node in overview["nodes"]} == {node.node_id for node in NODES}
    for node in NODES:
        assert re.search(r"converged|converging", told[node.node_id][1])
        memory = re.search(r"of ([\d.]+) MB$", told[node.node_id][3])
        assert memory
        assert float(memory[1]) == pytest.approx(node.memory_bytes / 1e6, rel=5e-3)
    strip = tab.page.get_by_label("State of the placement")
    await expect(strip).to_contain_text(f"Generation {(await read(api, '/placement/status'))['generation']}")


async def test_sorting_by_a_column_is_told(tab: Tab) -> None:
    """A heading is a button; rows follow it, and readers hear which way."""
    await show_view(tab, "fleet")
    button = tab.page.get_by_role("button", name="Experts", exact=True)
    await button.focus()
    await tab.page.keyboard.press("Enter")
    heading = tab.page.get_by_role("columnheader", name="Experts", exact=True)
    await expect(heading).to_have_attribute("aria-sort", "descending")
    held = [int(row[4]) for row in await rows(tab.page, "Nodes")]
    assert held == sorted(held, reverse=True)


async def test_a_cell_of_the_heat_map_is_inspected_by_keys(tab: Tab, api: AsyncClient, in_force: int) -> None:
    """From the top of the page by Tab, then arrows: node, expert, share and holders are those of the API."""
    await show_view(tab, "placement")
    await expect(tab.page.get_by_text("copies of 32 experts in layer 0")).to_be_visible()
    for _ in range(40):
        await tab.page.keyboard.press("Tab")
        if await tab.page.evaluate("() => document.activeElement.ariaRoleDescription") == "heat map":
            break
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"):
        await tab.page.keyboard.press(key)
    await expect(tab.page.get_by_role("heading", name="Expert 3 at edge-b")).to_be_visible()
    layer = await read(api, "/analysis/layers/tiny-moe/0")
    holders = [node["node_id"] for node in layer["nodes"] if 3 in node["desired"]]
    facts = tab.page.locator(".inspector")
    await expect(facts).to_contain_text(", ".join(holders) if holders else "the origin serves it")
    said = tab.page.locator("main p[aria-live]").first
    await expect(said).to_contain_text("edge-b, expert 3")
    shown = await tab.page.locator(".inspector").inner_text()
    assert re.search(r"[\d.]+ % of the node's activations", shown)
    await tab.page.get_by_label("Layer", exact=True).first.select_option("2")
    await expect(tab.page.get_by_text("copies of 32 experts in layer 2")).to_be_visible()


async def test_the_table_of_a_layer_has_every_holder(tab: Tab, api: AsyncClient, in_force: int) -> None:
    """What the heat map shows can be read as a table: each expert, who holds it, its share of traffic."""
    await show_view(tab, "placement")
    await tab.page.get_by_text("The layer as a table").click()
    await expect(tab.page.locator("details[open] tbody tr")).to_have_count(32)
    layer = await read(api, "/analysis/layers/tiny-moe/0")
    for row in await rows(tab.page, "Experts of the layer"):
        expert = int(row[0])
        holders = [node["node_id"] for node in layer["nodes"] if expert in node["desired"]]
        assert row[2] == str(len(holders))
        assert row[3] == (", ".join(holders) or "origin only")


async def test_the_network_is_the_one_specified(tab: Tab) -> None:
    """Each pair's latency in the table is the scenario's, and the origin is among those reached."""
    await show_view(tab, "network")
    await tab.page.get_by_text("The network as a table").click()
    await expect(tab.page.locator("details[open] tbody tr")).to_have_count(len(NODES))
    for index, row in enumerate(await rows(tab.page, "Nodes and what they reach")):
        others = [seconds for peer, seconds in enumerate(PEER_SECONDS[index]) if peer != index]
        assert row[1].endswith(f"{min(others) * 1e3:.2f} ms")
        assert row[2].endswith(f"{max(others) * 1e3:.2f} ms")
        assert row[3] == "30.0 ms"


async def test_moves_of_a_plan_are_those_of_the_api(tab: Tab, api: AsyncClient) -> None:
    """The newest plan is open; its moves are a chart that keys go through, and a table."""
    await show_view(tab, "migrations")
    await tab.page.get_by_text("Moves as a table").click()
    first = tab.page.locator("details[open] tbody tr").first
    await expect(first).to_be_visible()
    heading = await tab.page.locator("main h2").first.inner_text()
    match = re.search(r"Generation (\S+) → (\d+)", heading)
    assert match
    listed = (await read(api, "/migration_plans"))["migration_plans"]
    plan_id = next(plan["plan_id"] for plan in listed if plan["to_generation"] == int(match[2]))
    moves = {move["move_id"]: move for move in (await read(api, f"/migration_plans/{plan_id}"))["moves"]}
    for row in await rows(tab.page, "Moves"):
        assert moves[row[0]]["expert"] == int(row[3])
        assert moves[row[0]]["destination"] == row[5]
    chart = tab.page.get_by_label(re.compile("Moves over time"))
    await chart.focus()
    await tab.page.keyboard.press("End")
    await expect(tab.page.locator(".gantt p[aria-live]")).to_contain_text("planned from")
