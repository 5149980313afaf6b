"""Trouble that lasts is told at its beginning, now and then, and at its end."""

import time

import pytest
import structlog

from app.runtime.recurring import Recurring


def test_lasting_trouble_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 warnings in 50 seconds two are said, the second with how many it stands for; then the end."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with structlog.testing.capture_logs() as lines:
        trouble = Recurring(structlog.stdlib.get_logger("test"), "server not reached")
        trouble.over()
        for _ in range(100):
            trouble.warn(reason="refused")
            now += 0.5
        trouble.over()
        trouble.over()
    assert [(line["event"], line.get("again")) for line in lines] == [
        ("server not reached", None),
        ("server not reached", 60),
        ("no longer: server not reached", None),
    ]
    assert lines[-1]["after_seconds"] == 50.0
    assert lines[-1]["unsaid"] == 39


def test_trouble_that_comes_anew_is_told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning after an end is a first one again; the end of what was said fully is not told."""
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    with structlog.testing.capture_logs() as lines:
        trouble = Recurring(structlog.stdlib.get_logger("test"), "x")
        for _ in range(2):
            trouble.warn()
            trouble.over()
    assert [line["event"] for line in lines] == ["x", "x"]
