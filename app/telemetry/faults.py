"""What of a body is left out, and why."""

from app.errors import FieldError
from app.telemetry.schemas import PartialSuccess, RejectedPart

LISTED = 50
"""Faults told one by one; beyond, only their number is."""


class Faults:
    """Faults in the order found; `at` is the pointer of the window they are in."""

    __slots__ = ("at", "count", "listed")

    def __init__(self, at: str = "") -> None:
        self.at = at
        self.count = 0
        self.listed: list[FieldError] = []

    def add(self, pointer: str, detail: str, code: str, *, count: int = 1) -> None:
        self.count += count
        if len(self.listed) < LISTED:
            self.listed.append(FieldError(self.at + pointer, detail, code))

    def take(self, others: "Faults") -> None:
        """Add what others found."""
        self.count += others.count
        self.listed += others.listed[: LISTED - len(self.listed)]

    @property
    def full(self) -> bool:
        return len(self.listed) >= LISTED

    def partial_success(self) -> PartialSuccess | None:
        if self.count == 0:
            return None
        return PartialSuccess(
            rejected_count=self.count,
            errors=[
                RejectedPart(pointer=fault.pointer, detail=fault.detail, code=fault.code)
                for fault in self.listed
            ],
        )

    def summary(self) -> str:
        first = self.listed[0]
        more = "" if self.count == 1 else f" (and {self.count - 1} more)"
        return f"{first.pointer or 'the window'}: {first.detail}{more}"
