"""What an agent did with experts, for the log: each where there are few, summed up where there are many."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from moeplace_agent.holdings import ExpertKey

INTERVAL_SECONDS = 10.0
"""After a line, what follows of its kind is collected for so long and written as one line."""


@dataclass(slots=True)
class _Sum:
    """Events of one kind that have not been logged."""

    keys: list[ExpertKey] = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0
    places: Counter[str] = field(default_factory=Counter)


class Journal:
    """Lines for an operator: "fetched m/3/7: 300000 bytes in 0.2 s, from edge-b". `end` writes what is
    left."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval = interval_seconds
        self._clock = clock
        self._sums: dict[tuple[str, str], _Sum] = {}
        self._logged: dict[tuple[str, str], float] = {}
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}

    def note(
        self,
        done: str,
        key: ExpertKey,
        *,
        bytes: int | None = None,  # noqa: A002 - the unit is the name, as everywhere
        seconds: float | None = None,
        places: Sequence[str] = (),
        preposition: str = "from",
    ) -> None:
        """`done`: fetched, sent, evicted. `places`: whom it came from or went to. Call it on the event
        loop."""
        kind = done, preposition
        found = self._sums.setdefault(kind, _Sum())
        found.keys.append(key)
        found.bytes += bytes or 0
        found.seconds += seconds or 0.0
        found.places.update(places)
        if kind in self._timers:
            return
        due = self._logged.get(kind, -self._interval) + self._interval
        wait = due - self._clock()
        if wait <= 0:
            self._write(kind)
        else:
            self._timers[kind] = asyncio.get_running_loop().call_later(wait, self._write, kind)

    def sent(self, key: ExpertKey, size: int, seconds: float, client: str) -> None:
        """`Sends` calls it."""
        self.note("sent", key, bytes=size, seconds=seconds, places=[client], preposition="to")

    def end(self) -> None:
        """Write what has been collected."""
        for kind in list(self._sums):
            self._write(kind)

    def _write(self, kind: tuple[str, str]) -> None:
        timer = self._timers.pop(kind, None)
        if timer is not None:
            timer.cancel()
        found = self._sums.pop(kind, None)
        if found is None:
            return
        self._logged[kind] = self._clock()
        done, preposition = kind
        line = f"{done} {_experts(found.keys)}"
        if found.bytes:
            line += f": {found.bytes} bytes"
            if found.seconds:
                line += f" in {found.seconds:.2f} s"
        if found.places:
            line += f", {preposition} {_places(found.places, len(found.keys))}"
        self._logger.info("%s", line)


def _experts(keys: Sequence[ExpertKey]) -> str:
    if len(keys) == 1:
        return str(keys[0])
    models = sorted({key.model_id for key in keys})
    layers = sorted({key.layer for key in keys})
    places = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
    return f"{len(keys)} experts of {', '.join(models)} ({places})"


def _places(places: Counter[str], count: int) -> str:
    if count == 1:
        return " and ".join(places)
    return ", ".join(f"{name} ({number})" for name, number in places.most_common())
