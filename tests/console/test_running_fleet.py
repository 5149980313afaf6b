"""The console on a running fleet: what every view shows is what the API says, for eyes, keys and readers; and
what operators do in it, or are told when it cannot be done.

One module, since tests of one run in one process: they share the fleet.
"""

import os
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from httpx import AsyncClient
from playwright.async_api import expect

from lab.demo.scenario import CLUSTER_ID, NODES, PEER_SECONDS
from tests.console.browser import Tab
from tests.console.fleet import RunningFleet
from tests.console.steps import VIEWS, exchange, generation, read, rows, show_view

pytestmark = pytest.mark.anyio

OpenTab = Callable[..., AbstractAsyncContextManager[Tab]]


# --- what is shown
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
    for index, row in enumerate(await rows(tab.page, "Nodes and their latencies")):
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
    carried_out = [plan for plan in listed if not plan["validate_only"]]
    plan_id = next(plan["plan_id"] for plan in carried_out if plan["to_generation"] == int(match[2]))
    moves = {move["move_id"]: move for move in (await read(api, f"/migration_plans/{plan_id}"))["moves"]}
    for row in await rows(tab.page, "Moves"):
        assert moves[row[0]]["expert"] == int(row[3])
        assert moves[row[0]]["destination"] == row[5]
    chart = tab.page.get_by_label(re.compile("Moves over time"))
    await chart.focus()
    await tab.page.keyboard.press("End")
    await expect(tab.page.locator(".gantt p[aria-live]")).to_contain_text("planned from")


# --- what is done
async def test_rollback_asks_first_and_names_what_it_saw(tab: Tab, api: AsyncClient, in_force: int) -> None:
    """The dialog tells what changes; leaving it changes nothing; the request carries If-Match; a new
    generation is in force and shown without a reload."""
    await show_view(tab, "history")
    page = tab.page
    button = page.get_by_role("button", name=f"Roll back to generation {in_force - 1}", exact=True)
    await button.click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(f"Generation {in_force} is in force now")
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    assert await generation(api) == in_force
    await button.click()
    async with page.expect_request(re.compile("placement:rollback")) as sent:
        await page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    assert (await sent.value).headers["if-match"] == (await api.get(f"/placements/{in_force}")).headers[
        "etag"
    ]
    await expect(page.get_by_label("State of the placement")).to_contain_text(f"Generation {in_force + 1}")
    await expect(
        page.get_by_role("table", name="Generations, newest first").locator("tbody tr").first
    ).to_contain_text("rollback")
    assert (await read(api, "/placement"))["evidence"]["algorithm"] == "rollback"


async def test_rollback_is_refused_when_the_placement_changed_meanwhile(
    tab: Tab, api: AsyncClient, in_force: int
) -> None:
    """Another operator was faster: nothing is rolled back, and the dialog says so."""
    await show_view(tab, "history")
    page = tab.page
    await page.get_by_role("button", name=f"Roll back to generation {in_force - 1}", exact=True).click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await exchange(api)
    await page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Another placement came into force meanwhile")
    assert await generation(api) == in_force + 1
    await page.keyboard.press("Escape")
    tab.complaints[:] = [complaint for complaint in tab.complaints if "412" not in complaint]


async def test_the_button_to_pause_stays_in_the_first_row(tab: Tab) -> None:
    """However many conditions there are, the button is beside the generation; the conditions wrap."""
    await show_view(tab, "fleet")
    await tab.page.set_viewport_size({"width": 1000, "height": 800})
    await expect(tab.page.locator(".conditions li")).to_have_count(8)
    generation = await tab.page.locator(".generation").bounding_box()
    button = await tab.page.get_by_role("button", name="Pause recomputation").bounding_box()
    assert generation is not None
    assert button is not None
    assert abs(generation["y"] - button["y"]) < 12


async def test_pausing_recomputation(tab: Tab, api: AsyncClient) -> None:
    """One button, whose effect the API has and the page shows; and back."""
    await show_view(tab, "fleet")
    strip = tab.page.get_by_label("State of the placement")
    await strip.get_by_role("button", name="Pause recomputation").click()
    await expect(strip).to_contain_text("Recomputation paused")
    assert (await read(api, "/placement/status"))["paused"] is True
    await strip.get_by_role("button", name="Resume").click()
    await expect(strip).not_to_contain_text("Recomputation paused")
    assert (await read(api, "/placement/status"))["paused"] is False


async def test_what_if_computes_and_changes_nothing(tab: Tab, api: AsyncClient, in_force: int) -> None:
    """Without a node, with more memory at another, by another coupling: the difference is shown, the record
    says what was asked, and the placement in force stays."""
    await show_view(tab, "what-if")
    page = tab.page
    await page.get_by_label("edge-d", exact=True).check()
    await page.get_by_label("Node", exact=True).select_option("edge-a")
    await expect(page.locator("#memory-now")).to_contain_text("now 10.2 MB")
    await page.get_by_label("Coupling").select_option("sum")
    await page.get_by_label("Algorithm").select_option("greedy")
    await page.get_by_label("Time limit in seconds").fill("2")
    await page.get_by_role("button", name="Compute").click()
    await expect(
        page.get_by_role("heading", name=re.compile("What if: without edge-d; edge-a with 20.4 MB"))
    ).to_be_visible()
    row = page.get_by_role("row", name=re.compile("Mean latency of a token"))
    await expect(row).to_contain_text(re.compile(r"[\d.]+ ms"))
    record = (await read(api, "/optimizations"))["optimizations"][0]
    assert record["request"]["validate_only"] is True
    assert record["request"]["overrides"]["remove_nodes"] == ["edge-d"]
    assert record["request"]["coupling"] == "sum"
    assert record["request"]["algorithm"] == "greedy"
    assert f"{record['result']['mean_latency_seconds'] * 1e3:.3g}" in await row.inner_text()
    assert await generation(api) == in_force
    assert (await rows(page, "Recent computations"))[0][2] == "succeeded"


async def test_what_if_says_what_is_wrong(tab: Tab, api: AsyncClient) -> None:
    """In words beside the form: a number that is none, and what the service refuses."""
    await show_view(tab, "what-if")
    page = tab.page
    await page.get_by_label("Time limit in seconds").fill("0")
    await page.get_by_role("button", name="Compute").click()
    await expect(page.get_by_role("alert").filter(has_text="expected 0.1 to 600")).to_be_visible()
    await page.get_by_label("Time limit in seconds").fill("2")
    for node in ("edge-a", "edge-b", "edge-c", "edge-d"):
        await page.get_by_label(node, exact=True).check()
    await page.get_by_role("button", name="Compute").click()
    await expect(page.get_by_role("alert").filter(has_text="at least one node")).to_be_visible()
    tab.complaints[:] = [complaint for complaint in tab.complaints if "422" not in complaint]


async def test_a_new_generation_is_shown_as_it_comes(tab: Tab, api: AsyncClient, in_force: int) -> None:
    """No reload: the long poll brings it, the heat map follows, and readers are told."""
    await show_view(tab, "placement")
    page = tab.page
    await expect(page.get_by_text(re.compile(f"^Generation {in_force}: "))).to_be_visible()
    await exchange(api)
    await expect(page.get_by_label("State of the placement")).to_contain_text(f"Generation {in_force + 1}")
    await expect(
        page.get_by_text(re.compile(f"^Generation {in_force + 1}: .*more and .*fewer here"))
    ).to_be_visible()


async def test_nobody_asks_while_nobody_looks(tab: Tab) -> None:
    """A hidden tab lets go of its long poll and asks nothing; shown again, it asks at once."""
    await show_view(tab, "fleet")
    page = tab.page
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    await page.evaluate(hide, True)
    asked.clear()
    await page.wait_for_timeout(3500)
    assert asked == []
    async with page.expect_request(re.compile("analysis/overview")):
        await page.evaluate(hide, False)


async def test_keys_switch_views_unless_turned_off(tab: Tab) -> None:
    """1 to 6 show views, but not while something is typed, and not after they were turned off."""
    await show_view(tab, "fleet")
    page = tab.page
    await page.keyboard.press("3")
    await expect(page).to_have_url(re.compile(f"#/{CLUSTER_ID}/network$"))
    await expect(page.get_by_role("link", name="Network")).to_have_attribute("aria-current", "page")
    await page.keyboard.press("6")
    await page.get_by_label("Time limit in seconds").press("2")
    await expect(page).to_have_url(re.compile("#/demo/what-if$"))
    await page.locator("main").focus()
    await page.keyboard.press("?")
    await page.get_by_label("single keys do something").uncheck()
    await page.keyboard.press("Escape")
    await page.keyboard.press("1")
    await expect(page).to_have_url(re.compile("#/demo/what-if$"))


async def test_what_nobody_answers_is_told(tab: Tab, fleet: RunningFleet) -> None:
    """Without the service the page keeps what it had, says that nobody answers, and finds back by itself."""
    await show_view(tab, "fleet")
    page = tab.page
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await page.context.set_offline(True)
    await expect(page.get_by_text(re.compile("offline|no answer, again in"))).to_be_visible()
    assert await rows(page, "Nodes")
    await page.context.set_offline(False)
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    tab.complaints[:] = [
        complaint for complaint in tab.complaints if "ERR_INTERNET_DISCONNECTED" not in complaint
    ]
