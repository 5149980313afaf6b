"""How often may be asked: by one token, and with wrong tokens from one address. Counted in this process.

The memory of the library `limits` grows with every address that asks, starts a thread every 10 ms
while it counts, and costs as much as all the rest of looking at a token; hence these few lines.
"""

import ipaddress
import math
import time
from collections import OrderedDict

from app.errors import RateLimited

COUNTED = 20_000
"""Tokens, and addresses, whose counts are kept: beyond, those whose window began first are forgotten."""

TOKEN_SECONDS = 10.0
"""Requests of a token are counted over so long, so that a burst passes."""

ADDRESS_SECONDS = 60.0

_PREFIX_BITS = 64
"""Of an IPv6 address: who has one has all that begin so."""


class Counts:
    """Of events by key, in windows that begin with a key's first event and last `seconds`; at most `limit` in
    one. Of at most `keys` keys."""

    def __init__(self, limit: int, seconds: float, keys: int = COUNTED) -> None:
        self.limit = limit
        self.seconds = seconds
        self._keys = keys
        self._windows: OrderedDict[str, list[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, key: str, now: float) -> bool:
        """Count one; False where it is one too many."""
        window = self._windows.get(key)
        if window is None or window[0] <= now:
            window = self._windows[key] = [now + self.seconds, 0]
            self._windows.move_to_end(key)
            if len(self._windows) > self._keys:
                self._windows.popitem(last=False)
        window[1] += 1
        return window[1] <= self.limit

    def seconds_left(self, key: str, now: float) -> float:
        """Until the window of the key is over."""
        window = self._windows.get(key)
        return 0.0 if window is None else max(0.0, window[0] - now)


class Rates:
    """`requests_per_second` of a token (0: no limit), `failures_per_minute` of an address."""

    def __init__(self, requests_per_second: int, failures_per_minute: int) -> None:
        self._tokens = (
            Counts(int(requests_per_second * TOKEN_SECONDS), TOKEN_SECONDS) if requests_per_second else None
        )
        self._addresses = Counts(failures_per_minute, ADDRESS_SECONDS)

    def asked(self, token_id: str) -> None:
        """Count a request; `RateLimited` for one too many."""
        tokens, now = self._tokens, time.monotonic()
        if tokens is not None and not tokens.add(token_id, now):
            raise _later(
                f"the token has asked {tokens.limit} times within {tokens.seconds:g} s already",
                tokens.seconds_left(token_id, now),
            )

    def wrong(self, address: str) -> None:
        """Count a wrong token; `RateLimited` where there were too many from there."""
        key, now = _counted(address), time.monotonic()
        if not self._addresses.add(key, now):
            raise _later(
                "too many wrong tokens came from your address", self._addresses.seconds_left(key, now)
            )


def _counted(address: str) -> str:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    return str(ipaddress.ip_network((known, _PREFIX_BITS), strict=False))


def _later(detail: str, seconds: float) -> RateLimited:
    return RateLimited(detail, retry_after_seconds=math.ceil(seconds))
