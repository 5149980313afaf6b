"""What operators do in the console, and what they are told when it cannot be done."""

import re

import pytest
from httpx import AsyncClient
from playwright.async_api import expect

from app.demo.scenario import CLUSTER_ID
from tests.console.browser import Tab
from tests.console.fleet import RunningFleet
from tests.console.steps import exchange, generation, read, rows, show_view

pytestmark = pytest.mark.anyio


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
    await page.get_by_label("Seconds at most").fill("2")
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
    assert (await rows(page, "Computed lately"))[0][2] == "succeeded"


async def test_what_if_says_what_is_wrong(tab: Tab, api: AsyncClient) -> None:
    """In words beside the form: a number that is none, and what the service refuses."""
    await show_view(tab, "what-if")
    page = tab.page
    await page.get_by_label("Seconds at most").fill("0")
    await page.get_by_role("button", name="Compute").click()
    await expect(page.get_by_role("alert").filter(has_text="expected 0.1 to 600")).to_be_visible()
    await page.get_by_label("Seconds at most").fill("2")
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
    await page.get_by_label("Seconds at most").press("2")
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
