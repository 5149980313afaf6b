"""A flood of problems is answered, and does not flood the log."""

import pytest
from structlog.testing import capture_logs

from app.http import problem_log
from app.http.problem_log import LINES_PER_SECOND, ProblemLog


def test_lines_are_bounded_and_none_goes_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each type so many a second; the first line of a later second tells how many there were beyond."""
    now = 100.0
    monkeypatch.setattr("app.http.problem_log.time.monotonic", lambda: now)
    known = ProblemLog()

    def flood(slug: str, number: int) -> None:
        for _ in range(number):
            known.note(status=503, slug=slug, detail="x" * 1000, method="GET", path="/v1")

    with capture_logs() as lines:
        flood("unavailable", 1000)
        flood("not-found", 3)
        now = 101.5
        flood("unavailable", 1)
        flood("unavailable", 1)
    told = [(line["type"], line.get("unlogged_before")) for line in lines]
    assert told == [
        *[("unavailable", None)] * LINES_PER_SECOND,
        *[("not-found", None)] * 3,
        ("unavailable", 1000 - LINES_PER_SECOND),
        ("unavailable", None),
    ]
    assert all(len(line["detail"]) == problem_log.DETAIL_CHARACTERS for line in lines)
