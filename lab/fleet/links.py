"""Links between the processes of the fleet, slower than loopback: delay and bandwidth imposed on purpose.

They are imposed where a frame is sent: it is kept until the link would have delivered it. A link sends one
frame after the other at its bandwidth, and each arrives its delay later. Both ways of a call are links of
their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec


class LinkSpec(msgspec.Struct, frozen=True):
    """One way from one node to another."""

    delay_seconds: float
    bytes_per_second: float


LOOPBACK = LinkSpec(0.0, float("inf"))


class Link:
    def __init__(self, spec: LinkSpec, deliver: Callable[[bytes], None]) -> None:
        """`deliver` is called with each frame when it has arrived, in the order in which they were sent."""
        self._spec = spec
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._free_at = 0.0
        self.bytes_sent = 0

    def send(self, frame: bytes) -> None:
        self.bytes_sent += len(frame)
        if self._spec == LOOPBACK:
            self._deliver(frame)
            return
        begin = max(self._loop.time(), self._free_at)
        self._free_at = begin + len(frame) / self._spec.bytes_per_second
        self._loop.call_at(self._free_at + self._spec.delay_seconds, self._deliver, frame)
