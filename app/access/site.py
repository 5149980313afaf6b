"""Whether a request without a token comes from a program, or from a page of this service.

A browser lets every page send requests to addresses of the user's machine and network. A page of another site
cannot read the answers, but a POST takes effect all the same; and where the page's own name is made to lead
here (DNS rebinding), the browser takes the service for the page's site, and the page reads everything. With
tokens neither does harm: the page has none. Without tokens, `Host`, `Origin` and `Sec-Fetch-Site` say for
which site the browser takes the service, and whose page asks. Agents and curl send the first alone.
"""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import Scope

from app.config import Settings
from app.errors import FieldError, ForeignSite, Misdirected
from app.http.parameters import fields_of
from moeplace_agent.serving.listening import is_loopback

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_LOCAL_DOMAINS = ("localhost", "local", "internal", "lan", "svc", "svc.cluster.local", "home.arpa")
"""Nobody can register a name below them in the public DNS, so no page of others can have one."""

_DEFAULT_PORTS = (":80", ":443")
_OWN_SITES = frozenset({b"same-origin", b"none"})


class Site:
    """The hosts that this service is asked as."""

    def __init__(self, settings: Settings) -> None:
        self._named = frozenset(settings.allowed_host_names)
        self._own = self._named | {settings.host.strip("[]").lower()}
        self._loopback = is_loopback(settings.host)
        self._known = lru_cache(1024)(self._judge)

    def require(self, scope: Scope) -> None:
        """Raises `Misdirected` where the request is for a host that this service is not, and `ForeignSite`
        where a page of another site would change something."""
        fields = fields_of(scope)
        host = fields.get(b"host", b"").decode("latin-1")
        # Without one it is no browser: each sends it with every request, HTTP/1.1 and 2 both want it.
        if host and not self._known(host):
            detail = (
                f"this service is not {host[:100]!r}: expected "
                + ("a name or address of loopback" if self._loopback else "an address, or a local name")
                + ", or a host that MOEPLACE_ALLOWED_HOSTS lists"
            )
            raise Misdirected(detail, errors=[FieldError("header:Host", detail, "FOREIGN_HOST")])
        if scope["method"] in SAFE:
            return
        origin = fields.get(b"origin")
        if origin is not None and not self._same(origin.decode("latin-1"), host):
            raise _foreign("Origin", f"is {origin.decode('latin-1')[:100]!r}, a page of another site")
        site = fields.get(b"sec-fetch-site")
        if site is not None and site not in _OWN_SITES and not self._told_of(origin):
            raise _foreign("Sec-Fetch-Site", f"is {site.decode('latin-1')[:20]!r}, a page of another site")

    def _judge(self, host: str) -> bool:
        name = host_name(host)
        if name is None:
            return False
        if name in self._own or is_loopback(name) or name.endswith(".localhost"):
            return True
        if self._loopback:
            return False
        # What others may reach is asked by many names. A page's site has a public one.
        return _is_address(name) or "." not in name or name.endswith(tuple(f".{it}" for it in _LOCAL_DOMAINS))

    def _same(self, origin: str, host: str) -> bool:
        parts = origin.split("://", 1)
        if len(parts) != 2 or parts[0] not in ("http", "https"):
            return False  # "null", or a page of an extension
        same = _without_default_port(parts[1]) == _without_default_port(host)
        return same or self._told_of(origin.encode())

    def _told_of(self, origin: bytes | None) -> bool:
        """Whether the operator names the origin's host: that of a proxy in front."""
        name = None if origin is None else host_name(origin.decode("latin-1").partition("://")[2])
        return name in self._named


def host_name(authority: str) -> str | None:
    """Name or address of `host:port`, in small letters; None for what is neither."""
    if not authority or any(sign in authority for sign in "/?#@\\, \t"):
        return None
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port
    except ValueError:
        return None
    return None if parts.hostname is None else parts.hostname.removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _without_default_port(authority: str) -> str:
    authority = authority.lower()
    for port in _DEFAULT_PORTS:
        authority = authority.removesuffix(port)
    return authority


def _foreign(header: str, detail: str) -> ForeignSite:
    return ForeignSite(
        f"header:{header}: {detail}", errors=[FieldError(f"header:{header}", detail, "FOREIGN_SITE")]
    )
