"""How often may be asked: by one token, and with wrong tokens from one address. Counted in this process."""

import ipaddress
import time
from collections import OrderedDict

from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from app.errors import TooManyRequests

COUNTED = 20_000
"""Tokens, and addresses, whose counts are kept: beyond, those not heard of for longest are forgotten."""

_PREFIX_BITS = 64
"""Of an IPv6 address: who has one has all that begin so."""


class BoundedMemory(Storage):
    """Counts in memory, as the library's own, but of a bounded number of keys and without a thread."""

    def __init__(self, limit: int = COUNTED) -> None:
        super().__init__()
        self._limit = limit
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = time.time()
        count, ends = self._counts.get(key, (0, 0.0))
        if ends <= now:
            count, ends = 0, now + expiry
            while len(self._counts) >= self._limit:
                self._counts.popitem(last=False)
        self._counts[key] = count + amount, ends
        self._counts.move_to_end(key)
        return count + amount

    def get(self, key: str) -> int:
        count, ends = self._counts.get(key, (0, 0.0))
        return count if ends > time.time() else 0

    def get_expiry(self, key: str) -> float:
        return self._counts.get(key, (0, time.time()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._counts)
        self._counts.clear()
        return count

    def clear(self, key: str) -> None:
        self._counts.pop(key, None)


class Rates:
    """`requests_per_second` of a token (0: no limit), counted over ten seconds, so that a burst passes;
    `failures_per_minute` of an address."""

    _WINDOW_SECONDS = 10

    def __init__(self, requests_per_second: int, failures_per_minute: int) -> None:
        self._requests = (
            RateLimitItemPerSecond(requests_per_second * self._WINDOW_SECONDS, self._WINDOW_SECONDS)
            if requests_per_second
            else None
        )
        self._failures = RateLimitItemPerMinute(failures_per_minute)
        self._tokens = FixedWindowRateLimiter(BoundedMemory())
        self._addresses = FixedWindowRateLimiter(BoundedMemory())

    def asked(self, token_id: str) -> None:
        """Count a request; `TooManyRequests` for one too many."""
        if self._requests is not None and not self._tokens.hit(self._requests, token_id):
            raise _later(
                f"the token has asked {self._requests.amount} times within {self._WINDOW_SECONDS} s already",
                self._tokens.get_window_stats(self._requests, token_id).reset_time,
            )

    def failed(self, address: str) -> None:
        """Count a wrong token."""
        self._addresses.hit(self._failures, _counted(address))

    def allow_attempt(self, address: str) -> None:
        """`TooManyRequests` where there were too many wrong ones from there."""
        if not self._addresses.test(self._failures, _counted(address)):
            raise _later(
                "too many wrong tokens came from your address",
                self._addresses.get_window_stats(self._failures, _counted(address)).reset_time,
            )


def _counted(address: str) -> str:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    return str(ipaddress.ip_network((known, _PREFIX_BITS), strict=False))


def _later(detail: str, reset_time: float) -> TooManyRequests:
    return TooManyRequests(detail, retry_after_seconds=max(1, round(reset_time - time.time() + 0.5)))
