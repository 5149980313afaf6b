"""Requests between nodes are signed with the secret that all nodes share. The secret itself is never sent.

    Authorization: Moeplace-HMAC-SHA256 to="BASE_URL", time=SECONDS, nonce=HEX, signature=HEX

`signature` is the HMAC-SHA256, keyed with the secret, of one line each: the name of the scheme, the method,
the base URL that is asked, the path below it, the Range header or nothing, `time` and `nonce`. A signature
is good for one server, one expert, one range and one use, for `VALID_SECONDS`. So a server that receives one
can do nothing with it anywhere else, which matters because base URLs are what any node says of itself.

A server whose clock differs answers 401 and says its time; the client signs again with that time. That gives
nothing away, since the signature is still good for that server alone.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

SCHEME = "Moeplace-HMAC-SHA256"
VALID_SECONDS = 60.0
"""A server refuses a signature whose time differs by more from its own clock."""

_MAX_SEEN = 100_000
_CREDENTIALS = re.compile(
    rf'{SCHEME} to="([^"\s]{{1,2048}})", time=(\d{{1,12}}), nonce=([0-9a-f]{{32}}), '
    r"signature=([0-9a-f]{64})",
    re.ASCII,
)
_CHALLENGE = re.compile(rf"{SCHEME} time=(\d{{1,12}})", re.ASCII)


class Signer:
    """Signs requests. Remembers by how much the clock of each server differs."""

    def __init__(self, secret: str, *, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock
        self._offsets: dict[str, float] = {}

    def authorization(self, method: str, base_url: str, path: str, range_header: str | None) -> str:
        """Value of the Authorization header of one request."""
        to, nonce = canonical_url(base_url), secrets.token_hex(16)
        at = int(self._clock() + self._offsets.get(to, 0.0))
        signature = _signature(self._secret, method, to, path, range_header, at, nonce)
        return f'{SCHEME} to="{to}", time={at}, nonce={nonce}, signature={signature}'

    def adjust(self, base_url: str, challenge: str | None) -> bool:
        """Go by the clock that a server's answer 401 tells. True where signing anew makes a difference."""
        found = _CHALLENGE.search(challenge or "")
        if found is None:
            return False
        to, offset = canonical_url(base_url), int(found[1]) - self._clock()
        if abs(offset - self._offsets.get(to, 0.0)) <= VALID_SECONDS / 2:
            return False
        self._offsets[to] = offset
        return True


class Verifier:
    """Judges signed requests to one server."""

    def __init__(self, secret: str, urls: Collection[str], *, clock: Callable[[], float] = time.time) -> None:
        """`urls`: the base URLs at which this server is reached."""
        self._secret = secret
        self._urls = frozenset(map(canonical_url, urls))
        self._clock = clock
        self._seen: dict[str, float] = {}

    def challenge(self) -> str:
        """Value of WWW-Authenticate."""
        return f"{SCHEME} time={int(self._clock())}"

    def fault(self, method: str, path: str, range_header: str | None, authorization: str) -> str | None:
        """What is wrong with a request's Authorization, in words; None where it is right.

        A right one is right once. Until every agent signs, the secret itself as bearer is right too: agents
        of the release before send it.
        """
        kind, _, given = authorization.partition(" ")
        if kind.lower() == "bearer":
            right = hmac.compare_digest(given.strip().encode(), self._secret.encode())
            return None if right else "the bearer is not the secret that the nodes share"
        found = _CREDENTIALS.fullmatch(authorization)
        if found is None:
            return "expected a request signed with the secret that the nodes share"
        to, at, nonce, signature = found[1], int(found[2]), found[3], found[4]
        expected = _signature(self._secret, method, to, path, range_header, at, nonce)
        if not hmac.compare_digest(signature, expected):
            return "the signature was made with another secret, or for another request"
        if to not in self._urls:
            reached = ", ".join(sorted(self._urls))
            return f"the request is signed for {to}, and this server is reached at {reached}"
        now = self._clock()
        if abs(now - at) > VALID_SECONDS:
            return f"the clocks differ by {abs(now - at):.0f} s, expected at most {VALID_SECONDS:.0f}"
        return None if self._first_use(nonce, now) else "the request was sent before"

    def _first_use(self, nonce: str, now: float) -> bool:
        # A signature may be as far ahead of this clock as behind it.
        while self._seen:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest] <= 2 * VALID_SECONDS and len(self._seen) < _MAX_SEEN:
                break
            del self._seen[oldest]
        if nonce in self._seen:
            return False
        self._seen[nonce] = now
        return True


def canonical_url(base_url: str) -> str:
    """One writing for what is the same server: small letters, no default port, no slash at the end."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme.lower())
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme.lower()}://{host}{port}{parts.path.rstrip('/')}"


def _signature(
    secret: str, method: str, to: str, path: str, range_header: str | None, at: int, nonce: str
) -> str:
    lines = (SCHEME, method, to, path, range_header or "", str(at), nonce)
    return hmac.new(secret.encode(), "\n".join(lines).encode(), hashlib.sha256).hexdigest()
