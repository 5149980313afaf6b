"""The contract as programs and as people get it."""

import re

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

pytestmark = pytest.mark.anyio


async def test_docs_need_no_internet(application: FastAPI, api: AsyncClient) -> None:
    """The page loads nothing: no script, no style sheet, no picture of anybody; every operation is in it."""
    answer = await api.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    page = answer.text
    assert "<script" not in page
    assert "https://" not in page
    links = re.findall(r'(?:src|href|action)\s*=\s*"([^"]*)"', page)
    assert {link for link in links if not link.startswith("#")} == {"data:,", "openapi.json", "./"}
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    contract = application.openapi()
    for methods in contract["paths"].values():
        for operation in methods.values():
            assert operation["operationId"] in ids


async def test_docs_cannot_read_what_the_console_keeps(api: AsyncClient) -> None:
    """The page may run no script, and has an origin of its own."""
    policy = (await api.get("/docs")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert policy.endswith("; sandbox")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_the_contract_is_encoded_once(application: FastAPI, api: AsyncClient, path: str) -> None:
    """It has a tag, which saves sending it again, and codings."""
    first = await api.get(path, headers={"Accept-Encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    again = await api.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    made = application.state.reference
    assert (await api.get(path)).status_code == 200
    assert application.state.reference is made


async def test_the_contract_is_what_the_code_gives(application: FastAPI, api: AsyncClient) -> None:
    """As `moeplace openapi` prints it."""
    assert (await api.get("/openapi.json")).json() == application.openapi()
