"""Every error is a problem in JSON, whoever raises it."""

from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from starlette.requests import Request
from starlette.routing import Route
from structlog.testing import capture_logs

from app.http.problem import pointer
from app.observability.trace import add_trace_id

pytestmark = pytest.mark.anyio

FIELDS = {"type", "title", "status", "detail", "instance", "trace_id", "errors"}


def problem(response: Response, status: int) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body.keys() == FIELDS
    assert body["status"] == status
    assert body["type"].startswith("/problems/")
    assert body["trace_id"] == response.headers["traceparent"].split("-")[1]
    return body


async def test_unknown_routes_and_methods(api: AsyncClient) -> None:
    """The framework's own errors are problems too, and a 405 names all methods of the path."""
    assert problem(await api.get("/nothing/here"), 404)["instance"] == "/nothing/here"
    refused = await api.delete("/v1/clusters/alpha/placement")
    problem(refused, 405)
    assert refused.headers["allow"] == "GET, HEAD, PUT"
    problem(await api.get("/v1/clusters/"), 404)
    refused = await api.patch("/v1/clusters/alpha/models/tiny")
    problem(refused, 405)
    assert refused.headers["allow"] == "DELETE, GET, HEAD, PUT"


async def test_head_is_as_get_without_a_body(api: AsyncClient) -> None:
    """Also where it is an error: the same status and media type."""
    for path, status in (("/v1/clusters", 200), ("/v1/clusters/no", 404), ("/v1/clusters/no/placement", 404)):
        response = await api.head(path)
        assert response.status_code == status
        assert response.headers["content-type"].endswith("json")
        assert response.content == b""


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"", "application/json", 400),
        (b"[]", "application/json", 422),
        (b'{"preset": 5}', "application/json", 422),
        (b'{"preset": "tiny-moe", "typo": 1}', "application/json", 422),
        (b"{}", "application/json; charset=utf-8", 422),
        (b'{"preset": "tiny-moe"}', "text/plain", 415),
        (b'{"preset": "tiny-moe"}', "", 415),
    ],
)
async def test_bodies_that_cannot_be_taken(
    api: AsyncClient, body: bytes, content_type: str, status: int
) -> None:
    """400 where it is not JSON, 422 with a pointer where it is the wrong JSON, 415 where it says so."""
    headers = {"Content-Type": content_type} if content_type else {}
    found = problem(await api.put("/v1/clusters/c/models/m", content=body, headers=headers), status)
    if status == 422:
        assert found["errors"]
        assert all(fault["pointer"] == "" or fault["pointer"][0] == "/" for fault in found["errors"])


async def test_faults_are_told_in_words(api: AsyncClient) -> None:
    """No pattern to decipher where an id or a URL is wrong, and a misspelt field is said to be none."""
    told = problem(await api.put("/v1/clusters/a:b", json={}), 422)["detail"]
    assert told.startswith("path:cluster_id: expected 1 to 63 of a-z, A-Z, 0-9")
    told = problem(await api.put("/v1/clusters/c", json={"horizon": 1}), 422)["detail"]
    assert told == "/horizon: there is no such field"
    told = problem(await api.put("/v1/clusters/c", json={"origin": {"base_url": "x"}}), 422)["detail"]
    assert told.startswith("/origin/base_url: expected http:// or https://")


async def test_bodies_too_large(api: AsyncClient) -> None:
    """413 as sent and as inflated."""
    import gzip

    headers = {"Content-Type": "application/json"}
    problem(await api.put("/v1/clusters/c/models/m", content=b" " * (17 << 20), headers=headers), 413)
    bomb = gzip.compress(b" " * (65 << 20))
    headers["Content-Encoding"] = "gzip"
    problem(await api.put("/v1/clusters/c/models/m", content=bomb, headers=headers), 413)


async def test_parameters_are_named(api: AsyncClient) -> None:
    """Faults in path and query are told by where they are."""
    faults = problem(await api.get("/v1/clusters/-bad-/models?limit=0"), 422)["errors"]
    assert [fault["pointer"] for fault in faults] == ["path:cluster_id", "query:limit"]
    faults = problem(await api.get("/v1/clusters/-bad-/placement"), 422)["errors"]
    assert [fault["pointer"] for fault in faults] == ["path:cluster_id"]


async def test_the_unexpected_tells_nothing_but_the_trace(application: FastAPI, api: AsyncClient) -> None:
    """What went wrong is in the logs, under the id that the client was told."""

    async def fail(_: Request) -> Response:
        raise RuntimeError("a secret")

    application.router.routes.insert(0, Route("/failing", fail))
    with capture_logs() as logs:
        response = await api.get("/failing")
    body = problem(response, 500)
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert body["trace_id"]
    assert [entry["event"] for entry in logs if entry.get("exc_info")] == ["unexpected error"]


async def test_a_problem_can_be_found_in_the_log(api: AsyncClient) -> None:
    """Under its trace id, with what was asked and what was wrong with it; a good answer leaves no line."""
    with capture_logs(processors=[add_trace_id]) as logs:
        assert (await api.get("/healthz")).status_code == 200
        told = problem(await api.get("/v1/clusters/nowhere"), 404)
    (line,) = logs
    assert line["trace_id"] == told["trace_id"]
    assert (line["status"], line["method"], line["path"]) == (404, "GET", "/v1/clusters/nowhere")
    assert line["detail"] == told["detail"]


async def test_callers_trace_is_continued(api: AsyncClient) -> None:
    """Same trace id, another span; a malformed header starts a trace of its own."""
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    response = await api.get("/nothing", headers={"traceparent": f"00-{trace}-{span}-01"})
    assert problem(response, 404)["trace_id"] == trace
    version, same, own, flags = response.headers["traceparent"].split("-")
    assert (version, same, flags) == ("00", trace, "01")
    assert own != span
    for bad in ("nonsense", f"00-{'0' * 32}-{span}-01", f"ff-{trace}-{span}-01", f"00-{trace}-{span}-01-x"):
        response = await api.get("/nothing", headers={"traceparent": bad})
        assert problem(response, 404)["trace_id"] not in (trace, "0" * 32)


def test_pointers_are_escaped() -> None:
    """RFC 6901: ~ and / within a name."""
    assert pointer(("a/b", 0, "c~d")) == "/a~1b/0/c~0d"
