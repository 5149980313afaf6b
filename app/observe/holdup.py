"""What keeps a cluster from being as it is to be."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from app.placements.schemas import Outlook

_GRAVITY = {Outlook.UNDER_WAY: 0, Outlook.WAITING: 1, Outlook.CANNOT: 2}


@dataclass(frozen=True, slots=True)
class Holdup:
    """reason: what it is, in words. remedy: what to do about it, in words; None where nothing needs to be."""

    outlook: Outlook
    reason: str
    remedy: str | None = None


def in_words(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def together(holdups: Iterable[Holdup]) -> Holdup | None:
    """All of them as one, the gravest first; None of none."""
    ordered = sorted(holdups, key=lambda holdup: -_GRAVITY[holdup.outlook])
    if not ordered:
        return None
    reasons = dict.fromkeys(holdup.reason for holdup in ordered)
    remedies = dict.fromkeys(holdup.remedy for holdup in ordered if holdup.remedy is not None)
    return Holdup(ordered[0].outlook, "; ".join(reasons), "; ".join(remedies) or None)
