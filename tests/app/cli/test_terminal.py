"""Terminals whose coding is ASCII: every command's help, and paths that cannot be named."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.cli import COMMANDS
from moeplace_agent.cli.terminal import _in_ascii

ASCII = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "80"}

EVERY_HELP = """
import contextlib, sys
from app.cli import COMMANDS, command_line
from moeplace_agent.cli.terminal import show_everywhere
show_everywhere()
for command in COMMANDS:
    with contextlib.suppress(SystemExit):
        command_line([command.name])([command.name, "--help"])
"""


def run(arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *arguments], env=ASCII, cwd=cwd, capture_output=True, timeout=120, check=False
    )


def test_help_of_every_command_is_shown_in_ascii(tmp_path: Path) -> None:
    """Frames of ASCII signs, no traceback, for each command there is."""
    done = run(["-c", EVERY_HELP], tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert done.stdout.count(b"Usage: ") == len(COMMANDS)


def test_a_path_that_the_locale_cannot_name_is_one_line(tmp_path: Path) -> None:
    """`data_dir` with a letter beyond ASCII in node.yaml: its key, the reason, exit status 2."""
    (tmp_path / "n.yaml").write_text(
        "service: {url: 'http://127.0.0.1:1'}\n"
        "devices: [{device_id: g, memory: 1}]\n"
        "data_dir: ./D\N{LATIN SMALL LETTER A WITH ACUTE}tum\n",
        "utf-8",
    )
    done = run(["-m", "app", "agent", "--config", "n.yaml"], tmp_path)
    assert done.returncode == 2
    said = b"moeplace: data_dir: 'D\\xe1tum' cannot be named in this locale (ASCII)\n"
    assert done.stderr == said


def test_a_path_whose_bytes_are_no_text_is_one_line(tmp_path: Path) -> None:
    """On the command line: the message has a sign for each byte."""
    done = run(
        ["-m", "app", "agent", "--config", b"n\xc3\xa1.yaml".decode("ascii", "surrogateescape")], tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == b"moeplace: n??.yaml: No such file or directory\n"


@pytest.mark.parametrize(
    ("sign", "shown"),
    [("\u2501", "-"), ("\u2503", "|"), ("\u250f", "+"), ("\u2588", "#"), ("\u2026", "~"), ("\xe1", "\\xe1")],
)
def test_signs_of_tables_and_bars_keep_their_width(sign: str, shown: str) -> None:
    """One sign for one, so that frames still meet; letters by their number."""
    assert _in_ascii(sign) == shown
