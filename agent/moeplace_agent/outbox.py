"""Telemetry that waits for the service, bounded: what is oldest is worth least, so it goes first."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parcel:
    """One encoded window. Sending it again sends the same bytes, so the service counts it once."""

    sequence_number: int
    body: bytes


class Outbox:
    def __init__(self, max_parcels: int = 64, max_bytes: int = 32 << 20) -> None:
        if max_parcels < 1 or max_bytes < 1:
            raise ValueError(f"max_parcels {max_parcels}, max_bytes {max_bytes}: expected at least 1 each")
        self._max_parcels = max_parcels
        self._max_bytes = max_bytes
        self._waiting: deque[Parcel] = deque()
        self._bytes = 0
        self._sequence = 0
        self._filled = asyncio.Event()
        self.dropped = 0
        """Windows given up because newer ones needed the room, or because the service refused them."""

    def __len__(self) -> int:
        return len(self._waiting)

    def next_sequence_number(self) -> int:
        """Numbers the windows of one instance, over all its models, from 1."""
        self._sequence += 1
        return self._sequence

    def put(self, parcel: Parcel) -> None:
        """Take one more in, at the cost of the oldest; a parcel too large for the box alone is dropped."""
        self._waiting.append(parcel)
        self._bytes += len(parcel.body)
        while self._waiting and (len(self._waiting) > self._max_parcels or self._bytes > self._max_bytes):
            self._take()
            self.dropped += 1
        if self._waiting:
            self._filled.set()

    async def take(self) -> Parcel:
        """The oldest, as soon as there is one. It belongs to the caller from then on."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._take()

    def _take(self) -> Parcel:
        parcel = self._waiting.popleft()
        self._bytes -= len(parcel.body)
        return parcel
