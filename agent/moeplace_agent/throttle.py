"""A limit in bytes per second, shared by all that pass through it."""

from __future__ import annotations

from aiolimiter import AsyncLimiter

_BURST_SECONDS = 0.05
_LEAST_BURST = 16 << 10
_LARGEST_CHUNK = 1 << 18


class Throttle:
    """Lets bytes through at a rate; without one, at once. What waits is let through in the order it came.

    A leaky bucket: at most 50 ms worth of bytes (or 16 KiB) pass at once after a pause.
    """

    def __init__(self, bytes_per_second: float | None) -> None:
        if bytes_per_second is not None and bytes_per_second <= 0:
            raise ValueError(f"bytes_per_second: is {bytes_per_second}, expected more than 0")
        self._limiter: AsyncLimiter | None = None
        self.chunk_bytes = _LARGEST_CHUNK
        """Pieces that should be moved at a time: small where the rate is small, so that it is even."""
        if bytes_per_second is not None:
            burst = max(_LEAST_BURST, bytes_per_second * _BURST_SECONDS)
            self._limiter = AsyncLimiter(burst, burst / bytes_per_second)
            self.chunk_bytes = int(min(_LARGEST_CHUNK, burst))

    async def take(self, count: int) -> None:
        """Return when `count` more bytes may pass."""
        if self._limiter is None:
            return
        while count > 0:
            part = min(count, self._limiter.max_rate)
            await self._limiter.acquire(part)
            count -= int(part)
