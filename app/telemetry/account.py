"""What became of the windows of one request, and the answer that tells it."""

from starlette.types import ASGIApp

from app.http.answers import json_answer
from app.http.whole import PreparedAnswer
from app.telemetry.faults import Faults
from app.telemetry.schemas import TelemetryAnswer


class Account:
    __slots__ = ("accepted", "duplicate", "faults", "rejected")

    def __init__(self) -> None:
        self.accepted = 0
        self.rejected = 0
        self.duplicate = False
        self.faults = Faults()

    def answer(self) -> TelemetryAnswer:
        return TelemetryAnswer(
            accepted_count=self.accepted,
            duplicate=self.duplicate,
            partial_success=self.faults.partial_success(),
        )


_ONE_ACCEPTED = PreparedAnswer(
    json_answer(TelemetryAnswer(accepted_count=1, duplicate=False, partial_success=None))
)


def answer_of(account: Account) -> ASGIApp:
    if account.accepted == 1 and not account.duplicate and account.faults.count == 0:
        return _ONE_ACCEPTED
    return json_answer(account.answer())
