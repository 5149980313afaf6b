"""What several tests do, in the browser and over the API."""

from collections import Counter
from typing import Any

from httpx import AsyncClient
from playwright.async_api import Page, expect

from lab.demo.scenario import CLUSTER_ID
from tests.console.browser import Tab

VIEWS = {
    "fleet": "Nodes",
    "placement": "Experts by node",
    "network": "Latency from each node",
    "migrations": "Plans, newest first",
    "history": "Generations, newest first",
    "what-if": "Without these nodes",
}
"""Each view, and how something begins that it names once it has something to show."""


async def show_view(tab: Tab, view: str) -> None:
    await tab.show(f"#/{CLUSTER_ID}/{view}")
    named = tab.page.locator(f"main canvas[aria-label^='{VIEWS[view]}']")
    told = tab.page.locator("main :is(caption, legend)").filter(has_text=VIEWS[view])
    await expect(named.or_(told).first).to_be_attached()
    await expect(tab.page.get_by_text("live", exact=True)).to_be_visible()


async def rows(page: Page, caption: str) -> list[list[str]]:
    """The cells of a table, by its caption."""
    table = page.locator("table").filter(has=page.locator("caption", has_text=caption)).first
    found: list[list[str]] = await table.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )
    return found


async def read(api: AsyncClient, path: str) -> Any:
    response = await api.get(path)
    assert response.status_code == 200, response.text
    return response.json()


async def generation(api: AsyncClient) -> int:
    """The one in force."""
    found: int = (await read(api, "/placement"))["metadata"]["generation"]
    return found


async def settled(api: AsyncClient, at_least: int = 1) -> bool:
    """Whether that generation, or one after it, is carried out and has served traffic."""
    status, overview = [await api.get(path) for path in ("/placement/status", "/analysis/overview")]
    if not status.status_code == overview.status_code == 200:
        return False
    holds = {found["type"]: found["status"] for found in status.json()["conditions"]}
    number = status.json()["generation"]
    return bool(
        holds["Converged"]
        and not holds["Migrating"]
        and (number or 0) >= at_least
        and overview.json()["generation"] == number
        and overview.json()["local_hit_ratio"]
    )


async def exchange(api: AsyncClient) -> None:
    """Bring another placement into force: a node gives up an expert that another holds too, for one that it
    does not hold."""
    document = await api.get("/placement")
    holds = document.json()["spec"]["holds"]
    holders = Counter(
        (entry["layer"], expert) for node in holds for entry in node["holds"] for expert in entry["experts"]
    )
    entry, given_up = next(
        (entry, expert)
        for node in holds
        for entry in node["holds"]
        for expert in entry["experts"]
        if holders[entry["layer"], expert] > 1 and len(entry["experts"]) < 32
    )
    taken = next(expert for expert in range(32) if expert not in entry["experts"])
    entry["experts"] = sorted({*entry["experts"], taken} - {given_up})
    answer = await api.put(
        "/placement", json={"holds": holds}, headers={"If-Match": document.headers["etag"]}
    )
    assert answer.status_code == 200, answer.text
