"""What programs of this host ask, kept from pages in a browser on it.

A browser lets every page send requests to loopback. Where the page's own name is made to lead there (DNS
rebinding), the page reads the answers, too. Programs send no `Origin`, and ask for loopback.
"""

import ipaddress

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class LocalOnly:
    """Answers 421 where `Host` is neither `localhost` nor an address of loopback, 403 where a page asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(HTTPConnection(scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal(scope, receive, send)


def _refusal(request: HTTPConnection) -> PlainTextResponse | None:
    host = request.headers.get("host", "localhost")
    if not _is_local(host):
        return PlainTextResponse(f"Host: is {host[:100]!r}, expected a name of loopback\n", 421)
    if "origin" in request.headers:
        return PlainTextResponse("Origin: expected none: this is for programs, not for pages\n", 403)
    return None


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
