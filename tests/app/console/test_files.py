"""The page and its files, as they are sent."""

import re
from importlib.resources import files as resources

import pytest
from httpx import AsyncClient

from app.console.files import files

pytestmark = pytest.mark.anyio

OWN = [path for path in files() if not path.startswith("vendor/")]


async def test_page_is_sent_with_a_strict_policy_and_once(api: AsyncClient) -> None:
    """`/` is HTML that loads from here alone, runs no inline script, is framed by nobody; 304 next time."""
    response = await api.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    again = await api.get("/", headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304


async def test_every_file_is_served_as_what_it_is(api: AsyncClient) -> None:
    """Whole, with its type; what there is not is a problem, also when it points outside."""
    for path, file in files().items():
        response = await api.get(f"/console/{path}")
        assert response.status_code == 200
        assert response.content == file.document.json
        assert response.headers["content-type"] == file.media_type
    for path in ("console/none.js", "console/../main.py", "console/%2e%2e/endpoints.py", "console/"):
        response = await api.get(f"/{path}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"


async def test_every_import_and_link_leads_to_a_file() -> None:
    """What modules import and the page links is there: nothing is found missing by a user first."""
    for path in OWN:
        text = files()[path].document.json.decode()
        if path.endswith(".js"):
            folder = path.rpartition("/")[0]
            for name in re.findall(r'from "(\.[^"]+)"', text):
                parts = (folder.split("/") if folder else []) + name.split("/")
                while ".." in parts:
                    at = parts.index("..")
                    del parts[at - 1 : at + 1]
                assert "/".join(part for part in parts if part != ".") in files(), f"{path} imports {name}"
        if path.endswith(".html"):
            for name in re.findall(r'(?:src|href)="console/([^"]+)"', text):
                assert name in files(), f"{path} links {name}"


async def test_nothing_is_loaded_from_elsewhere() -> None:
    """No file of ours names another host (but the name space of SVG), so that the console works offline."""
    for path in OWN:
        named = re.findall(r"https?://[^\s\"'<>]+", files()[path].document.json.decode())
        assert set(named) <= {"http://www.w3.org/2000/svg"}, path


async def test_files_of_others_are_named_with_version_and_licence() -> None:
    """Every vendored file is in versions.txt, and its licence lies beside it."""
    folder = resources("app.console") / "static" / "vendor"
    told = (folder / "versions.txt").read_text()
    for entry in folder.iterdir():
        if entry.name != "versions.txt":
            assert entry.name in told
