"""Damaged records that a cluster's work can do without: left out, named, and looked at again with pauses."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from app.errors import DamagedRecord

FIRST_PAUSE_SECONDS: Final = 10.0
MAX_PAUSE_SECONDS: Final = 60.0
"""Before a damaged record is looked at again."""

Found = TypeVar("Found")
Read = Callable[[], Awaitable[object]]

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Damage:
    words: str
    read: Read
    pause_seconds: float
    due: float


class LeftOut:
    """One cluster's, for as long as one lease lasts."""

    def __init__(self) -> None:
        self._damages: dict[str, _Damage] = {}

    @property
    def faults(self) -> tuple[str, ...]:
        """In words, each names its key."""
        return tuple(damage.words for damage in self._damages.values())

    async def read(self, read: Callable[[], Awaitable[Found]], otherwise: Found) -> Found:
        """What `read` finds, or `otherwise` where it raises `DamagedRecord`. It is called again later, to
        learn whether the record was mended."""
        try:
            return await read()
        except DamagedRecord as damage:
            self.note(damage, read)
            return otherwise

    def note(self, damage: DamagedRecord, read: Read) -> None:
        if damage.key not in self._damages:
            log.error("a damaged record is left out", key=damage.key, reason=damage.detail)
            self._damages[damage.key] = _Damage(
                damage.detail, read, FIRST_PAUSE_SECONDS, time.monotonic() + FIRST_PAUSE_SECONDS
            )

    async def retry(self) -> None:
        """At those whose pause is over. Raises redis-py's errors."""
        now = time.monotonic()
        for key, damage in list(self._damages.items()):
            if damage.due > now:
                continue
            try:
                await damage.read()
            except DamagedRecord as still:
                damage.words = still.detail
                damage.pause_seconds = min(2.0 * damage.pause_seconds, MAX_PAUSE_SECONDS)
                damage.due = now + damage.pause_seconds
            else:
                log.info("a damaged record is mended, or gone", key=key)
                del self._damages[key]
