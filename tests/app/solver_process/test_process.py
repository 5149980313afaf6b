"""The process that solves: deadlines, cancelling, crashes, and an event loop that it never holds up."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from app.solver_process.process import SolverClosed, SolverCrashed, SolverProcess, TaskFailed, TaskOverran
from tests.app.solver_process import tasks_for_tests as tasks
from tests.app.worker.callbacks import timed

pytestmark = pytest.mark.anyio

BLOCKED_SECONDS = 0.01


@pytest.fixture
async def solver() -> AsyncIterator[SolverProcess]:
    process = SolverProcess("test", tasks.warm)
    yield process
    await process.close()


async def test_results_come_back(solver: SolverProcess) -> None:
    """Arguments and results cross whole, large arrays included, one task after another."""
    values = np.arange(300_000, dtype=np.float64)
    doubled = await solver.run(tasks.double, values, deadline_seconds=30)
    np.testing.assert_array_equal(doubled, values * 2)
    pids = await asyncio.gather(*[solver.run(tasks.own_pid, deadline_seconds=30) for _ in range(3)])
    assert set(pids) == {solver.pid}
    assert pids[0] != os.getpid()


async def test_overrunning_task_is_ended(solver: SolverProcess) -> None:
    """A task past its deadline is ended with its process; the next one runs in another."""
    first = await solver.run(tasks.own_pid, deadline_seconds=30)
    begun = time.monotonic()
    with pytest.raises(TaskOverran, match=r"sleep took longer than 0\.2 s"):
        await solver.run(tasks.sleep, 60.0, deadline_seconds=0.2)
    assert time.monotonic() - begun < 10
    assert await solver.run(tasks.own_pid, deadline_seconds=30) != first
    assert not psutil.pid_exists(first)


async def test_cancelling_ends_the_task(solver: SolverProcess) -> None:
    """A task that nobody wants any more does not keep the next one waiting."""
    await solver.start()
    unwanted = asyncio.create_task(solver.run(tasks.sleep, 60.0, deadline_seconds=120))
    await asyncio.sleep(0.1)
    assert solver.busy
    unwanted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unwanted
    assert await solver.run(tasks.sleep, 0.0, deadline_seconds=30) == "slept"


async def test_failure_and_crash_are_told_in_words(solver: SolverProcess) -> None:
    """A task that raises gives its words; one that kills the process is said to; both leave it usable."""
    with pytest.raises(TaskFailed, match="ValueError: rate is negative"):
        await solver.run(tasks.fail, "rate is negative", deadline_seconds=30)
    with pytest.raises(SolverCrashed, match="ended in the middle of crash"):
        await solver.run(tasks.crash, deadline_seconds=30)
    assert await solver.run(tasks.sleep, 0.0, deadline_seconds=30) == "slept"


@pytest.mark.parametrize(("starts", "ready"), [(3, True), (4, False)])
async def test_a_process_that_dies_while_it_starts_is_started_again(
    tmp_path: Path, starts: int, ready: bool
) -> None:
    """The worker, which waits for `start`, does not end with the first process that the kernel ends. After
    the third, `start` raises."""
    process = SolverProcess("test", partial(tasks.dies_until, tmp_path, starts))
    try:
        with contextlib.nullcontext() if ready else pytest.raises(SolverCrashed, match="in the middle of"):
            await process.start()
        assert tasks.starts_in(tmp_path) == min(starts, 3)
    finally:
        await process.close()


async def test_closing_ends_what_runs(solver: SolverProcess) -> None:
    """The worker ends at once, whatever is being solved, and nothing can be asked any more."""
    await solver.start()
    running = asyncio.create_task(solver.run(tasks.sleep, 60.0, deadline_seconds=120))
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    await solver.close()
    with pytest.raises(SolverClosed):
        await running
    assert time.monotonic() - begun < 5
    with pytest.raises(SolverClosed):
        await solver.run(tasks.own_pid, deadline_seconds=1)


async def test_event_loop_is_never_held_up(solver: SolverProcess) -> None:
    """While a task computes and megabytes cross, no callback of the loop costs over 10 ms."""
    await solver.start()
    values = np.zeros(4_000_000)
    with timed() as slowest:
        await solver.run(tasks.spin, 0.5, deadline_seconds=60)
        await solver.run(tasks.double, values, deadline_seconds=60)
    assert slowest.seconds < BLOCKED_SECONDS, slowest.what


def test_it_ends_with_a_killed_worker() -> None:
    """A worker that is killed leaves no solver behind, not even one in the middle of a task."""
    program = (
        "import asyncio, sys\n"
        "from app.solver_process.process import SolverProcess\n"
        "from tests.app.solver_process import tasks_for_tests as tasks\n"
        "async def main():\n"
        "    solver = SolverProcess('test', tasks.warm)\n"
        "    await solver.start()\n"
        "    print(solver.pid, flush=True)\n"
        "    await solver.run(tasks.spin, 120.0, deadline_seconds=300)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path) or "."},
    ) as worker:
        assert worker.stdout is not None
        shown = (line.strip() for line in iter(worker.stdout.readline, ""))
        solver = psutil.Process(next(int(line) for line in shown if line.isdigit()))
        worker.kill()
    solver.wait(10)
