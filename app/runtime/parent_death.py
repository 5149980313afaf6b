"""Processes that end with the process that started them, even when it is killed.

On Linux the kernel does it (PR_SET_PDEATHSIG); elsewhere somebody has to look at the parent's id now and
then. Run as a script, this file executes another program, which ends with the caller. It uses nothing but the
standard library, so that it can start in isolated mode within a few milliseconds.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.5


def ending_with_parent(command: list[str], *, parent_death_signal: signal.Signals) -> list[str]:
    """`command`, to be started from this process's main thread: it gets the signal when we end."""
    launcher = [
        sys.executable,
        "-I",
        "-S",
        str(Path(__file__)),
        str(os.getpid()),
        str(int(parent_death_signal)),
    ]
    return [*launcher, *command]


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have this process sent signal `number` when its parent, process `parent`, ends."""
    if sys.platform == "linux":
        _ask_kernel(number)
        if os.getppid() != parent:  # it ended before the kernel knew
            os.kill(os.getpid(), number)
    else:
        threading.Thread(target=_watch_parent, args=(parent, os.getpid(), number), daemon=True).start()


def _ask_kernel(number: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _watch_parent(parent: int, child: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(child, number)


def _execute(parent: int, number: int, command: list[str]) -> int:
    if sys.platform == "linux":
        end_with_parent(parent, number)
        os.execv(command[0], command)
    # The program's own parent is this process, which stays to watch ours and passes signals on.
    with subprocess.Popen(command, close_fds=False) as program:
        for passed_on in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(passed_on, lambda received, _: program.send_signal(received))
        threading.Thread(target=_watch_parent, args=(parent, program.pid, number), daemon=True).start()
        code = program.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_execute(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
