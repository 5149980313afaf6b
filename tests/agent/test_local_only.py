"""The local port of an agent is for programs, not for pages."""

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from moeplace_agent.serving.local_only import LocalOnly

pytestmark = pytest.mark.anyio


async def _answer(_: Request) -> Response:
    return PlainTextResponse("served")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:9001"}, 200),
        ({"Host": "127.0.0.2"}, 200),
        ({"Host": "[::1]:9001"}, 200),
        ({"Host": "LOCALHOST:9001"}, 200),
        ({"Host": "rebound.example:9001"}, 421),
        ({"Host": "127.0.0.1.rebound.example"}, 421),
        ({"Host": "10.0.0.4:9001"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "127.0.0.1:9001", "Origin": "http://page.example"}, 403),
        ({"Host": "127.0.0.1:9001", "Origin": "null"}, 403),
    ],
)
async def test_a_page_that_rebinds_its_name_gets_nothing(headers: dict[str, str], status: int) -> None:
    """By `Host` it would read where experts are, by `Origin` it would post what engines measure."""
    application = LocalOnly(Starlette(routes=[Route("/v1/calls", _answer, methods=["POST"])]))
    async with AsyncClient(transport=ASGITransport(application), base_url="http://agent") as client:
        assert (await client.post("/v1/calls", headers=headers)).status_code == status
