"""The fleet from its first process to its last, with everything shown that happens."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rich.console import Console

from lab.fleet.members import started_members
from lab.fleet.report import Report
from lab.fleet.run import Course, Run
from lab.fleet.scenario import Scenario
from lab.fleet.view import shown
from lab.fleet.watching import watched


async def run_fleet(
    console: Console, described: Scenario, course: Course, *, port: int = 0, plain: bool = False
) -> Report:
    """However it ends, its processes have ended and its directory is gone. Raises `RunFailed`."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="moeplace-fleet-", ignore_cleanup_errors=True) as name:
        directory = Path(name)

        def say(words: str) -> None:
            console.print(words, highlight=False)

        async with started_members(described, directory, port=port, say=say) as members:
            with shown(console, plain=plain, begun=begun) as view:
                run = Run(members, course, view.say)
                return await watched(members, run, view, run.run(directory))
