"""SIGHUP by a terminal that closes ends the program; sent by a person or a service manager it does not."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import pathlib, signal, sys, time
from app.supervisor.sighup import SighupPolicy
sighup = SighupPolicy()
said = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGHUP, lambda *_: said.write_text(str(sighup.ends())))
pathlib.Path(sys.argv[2]).touch()
while True:
    time.sleep(0.05)
"""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or (path.name == "said" and not path.read_text()):
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("terminal", "closes", "ignored", "ends"),
    [
        (True, True, False, True),
        (True, False, False, False),
        (True, True, True, False),
        (False, False, False, False),
    ],
    ids=["terminal closes", "kill -HUP", "nohup", "no terminal"],
)
def test_what_a_hangup_means(tmp_path: Path, terminal: bool, closes: bool, ignored: bool, ends: bool) -> None:
    """With a real terminal, which closes or does not, with nohup, and without one."""
    said, ready = tmp_path / "said", tmp_path / "ready"
    command = [sys.executable, "-c", PROGRAM, str(said), str(ready)]
    process: subprocess.Popen[bytes] | None = None
    if not terminal:
        process = subprocess.Popen(command, start_new_session=True)
        pid, controlling = process.pid, -1
    else:
        pid, controlling = pty.fork()
        if pid == 0:
            if ignored:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execv(command[0], command)
    try:
        wait_for(ready)
        if closes:
            os.close(controlling)
        else:
            os.kill(pid, signal.SIGHUP)
        wait_for(said)
        assert said.read_text() == str(ends)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0) if process is None else process.wait()
        if terminal and not closes:
            os.close(controlling)
