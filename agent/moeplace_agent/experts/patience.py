"""How long something may be waited for that should come at some least rate."""

from __future__ import annotations


class Patience:
    """Seconds that may still be waited. Waiting takes them, bytes that arrive give them back.

    A stream that keeps `least_bytes_per_second` never exhausts it; one that stops does after `seconds`; one
    that drips does after at most a little more.
    """

    def __init__(self, seconds: float, least_bytes_per_second: float) -> None:
        self._seconds = seconds
        self._least = least_bytes_per_second
        self.left = seconds

    def waited(self, seconds: float) -> None:
        self.left -= seconds

    def arrived(self, count: int) -> None:
        """Never more than there was at the start: what came fast does not pay for a long silence."""
        self.left = min(self._seconds, self.left + count / self._least)
