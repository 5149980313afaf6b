"""What a node has to say of its moves: one full state per move, the newest only, until the service has it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any

import msgspec

from moeplace_agent.messages import MoveOrder


class ReportedState(StrEnum):
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def final(self) -> bool:
        return self is not ReportedState.IN_PROGRESS


class MoveReport(msgspec.Struct, frozen=True):
    """The state of one attempt at one move."""

    plan_id: str
    move_id: str
    generation: int
    attempt: int
    state: ReportedState
    bytes_done: int = 0
    digest: str | None = None
    reason: str | None = None

    @classmethod
    def of(
        cls,
        order: MoveOrder,
        generation: int,
        state: ReportedState,
        *,
        bytes_done: int = 0,
        digest: str | None = None,
        reason: str | None = None,
    ) -> MoveReport:
        return cls(
            order.plan_id, order.move_id, generation, order.attempt, state, bytes_done, digest,
            None if reason is None else reason[:1000],
        )  # fmt: skip

    def body(self, instance_uid: str) -> dict[str, Any]:
        return {"instance_uid": instance_uid, **msgspec.to_builtins(self)}


class ReportBox:
    """Unsent reports. A newer state of a move replaces the older, a final state is never replaced by an
    unfinished one of the same attempt, so the box holds at most one report per move."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str], MoveReport] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, report: MoveReport) -> None:
        key = (report.plan_id, report.move_id)
        known = self._pending.get(key)
        if known is not None and (
            known.attempt > report.attempt
            or (known.attempt == report.attempt and known.state.final and not report.state.final)
        ):
            return
        self._pending[key] = report
        self._filled.set()

    async def wait(self) -> None:
        """Return once there is something to send."""
        while not self._pending:
            self._filled.clear()
            await self._filled.wait()

    def batch(self, limit: int = 1000) -> list[MoveReport]:
        """Up to `limit` reports; they stay in the box until `sent` says the service has them."""
        return list(self._pending.values())[:limit]

    def sent(self, reports: list[MoveReport]) -> None:
        """Forget these, except where a newer state has come meanwhile."""
        for report in reports:
            key = (report.plan_id, report.move_id)
            if self._pending.get(key) is report:
                del self._pending[key]
