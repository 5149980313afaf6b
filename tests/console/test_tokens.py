"""The console where the service wants tokens: the page comes without one, and says what is refused."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from httpx import AsyncClient
from playwright.async_api import Page, expect

from tests.console.browser import Tab

pytestmark = pytest.mark.anyio

OPERATOR = "an-operators-secret-of-some-forty-characters"
BLOCK = {"layer": 0, "experts": 2, "expert_bytes": 10, "top_k": 1}


async def prepare(url: str) -> str:
    """A cluster with two generations; a reader's token."""
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    async with AsyncClient(base_url=url, headers=headers, timeout=30) as api:
        base = "/v1/clusters/alpha"
        await api.put(f"{base}/models/m", json={"blocks": [BLOCK]})
        tag = {"If-None-Match": "*"}
        for node_id in ("a", "b"):
            device = {"device_id": "gpu0", "memory_bytes": 100}
            await api.put(f"{base}/nodes/{node_id}", json={"instance_uid": "1", "devices": [device]})
        for node_id in ("a", "b"):
            held = [{"model_id": "m", "layer": 0, "experts": [0, 1]}]
            body = {"holds": [{"node_id": node_id, "holds": held}]}
            placed = await api.put(f"{base}/placement", json=body, headers=tag)
            assert placed.is_success, placed.text
            tag = {"If-Match": placed.headers["etag"]}
        issued = await api.post("/v1/tokens", json={"role": "READER"})
        token: str = issued.json()["token"]
        return token


async def enter(page: Page, token: str) -> None:
    await page.get_by_role("button", name=re.compile("^Token")).click()
    await page.get_by_role("dialog").get_by_label("Token", exact=True).fill(token)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_what_each_token_may(
    serve_api: Callable[..., str], open_tab: Callable[..., AbstractAsyncContextManager[Tab]]
) -> None:
    """None, a wrong one, a reader's and an operator's: 401 and 403 are told in words, a reader sees and
    changes nothing, an operator rolls back; the token stays in this tab alone."""
    url = serve_api(operator_token=OPERATOR)
    reader = await prepare(url)
    async with open_tab(url) as tab:
        page = tab.page
        await tab.show("#/alpha/history")
        alert = page.get_by_role("alert").filter(has_text="401")
        await expect(alert).to_contain_text("requires a token")
        assert await tab.axe() == []
        await enter(page, "no-token-of-this-service")
        await expect(alert).to_contain_text("does not know this token")
        await enter(page, reader)
        await expect(alert).to_be_hidden()
        back = page.get_by_role("button", name="Roll back to generation 1", exact=True)
        dialog = page.get_by_role("dialog")
        await back.click()
        await dialog.get_by_role("button", name="Roll back").click()
        await expect(dialog).to_contain_text("role OPERATOR")
        await page.keyboard.press("Escape")
        await page.reload()
        await expect(back).to_be_visible()
        await enter(page, OPERATOR)
        await back.click()
        await dialog.get_by_role("button", name="Roll back").click()
        await expect(page.get_by_role("row", name=re.compile("rollback to generation 1"))).to_be_visible()
        assert await page.evaluate(
            "() => [Object.values(localStorage), document.cookie, location.search]"
        ) == [
            [],
            "",
            "",
        ]
        assert await page.evaluate("() => Object.values(sessionStorage)") == ["alpha", OPERATOR]
        refusals = re.compile("the server responded with a status of 40[13]")
        assert [complaint for complaint in tab.complaints if not refusals.search(complaint)] == []
