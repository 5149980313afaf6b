"""One line of the log for each problem answered, and not more of them than a log is good for."""

import logging
import time

import structlog

LINES_PER_SECOND = 20
"""Of one type of problem. Whoever floods the service must not flood the log, nor be refused more slowly for
it: the others are counted, and the next line tells how many there were."""

DETAIL_CHARACTERS = 300
"""Of what a client sent, in a line."""

QUIET_PATHS = frozenset({"/readyz"})
"""Probes ask all the time, and tell themselves."""

log = structlog.stdlib.get_logger("app.http.problem")


class ProblemLog:
    """Of one process."""

    def __init__(self) -> None:
        self._second = 0
        self._lines: dict[str, int] = {}
        self._unlogged: dict[str, int] = {}

    def note(self, *, status: int, slug: str, detail: str, method: str, path: str) -> None:
        """So that whoever is handed a trace id finds what was asked and what was wrong with it."""
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._lines.clear()
        lines = self._lines[slug] = self._lines.get(slug, 0) + 1
        if lines > LINES_PER_SECOND:
            self._unlogged[slug] = self._unlogged.get(slug, 0) + 1
            return
        unlogged = self._unlogged.pop(slug, 0)
        log.log(
            logging.DEBUG if path in QUIET_PATHS else logging.INFO,
            "problem answered",
            status=status,
            type=slug,
            detail=detail[:DETAIL_CHARACTERS],
            method=method,
            path=path[:DETAIL_CHARACTERS],
            **({"unlogged_before": unlogged} if unlogged else {}),
        )


PROBLEM_LOG = ProblemLog()
