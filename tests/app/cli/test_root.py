"""The command line's root: quick, complete, and with examples that name real options."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from app.cli import COMMANDS, Command, command_line

NAMES = [command.name for command in COMMANDS]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command_line(arguments), list(arguments), terminal_width=200)
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_help_loads_no_command() -> None:
    """`moeplace --help` imports nothing heavy: neither numba nor the web framework nor Redis."""
    script = (
        "import sys; from app.cli import command_line\n"
        "try: command_line(['--help'])(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'numpy', 'fastapi', 'redis', 'pydantic', 'uvicorn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for name in NAMES:
        assert re.search(rf"\b{name}\b", ended.stdout)


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_every_command_explains_itself(command: Command) -> None:
    """--help of each command shows its own text and examples that use options it has."""
    status, said = run(command.name, "--help")
    assert status == 0
    flat = " ".join(said.split())
    assert f"moeplace {command.name}" in flat
    for example in command.examples:
        assert example in flat
        for option in re.findall(r"--[a-z-]+", example):
            assert option in flat


def test_no_arguments_show_the_help() -> None:
    """Whoever types only the name learns what there is."""
    _, said = run()
    assert "Usage: moeplace" in said
    assert "serve" in said


def test_version() -> None:
    """--version prints the installed version."""
    assert run("--version") == (0, f"moeplace {version('moeplace')}\n")


def test_unknown_command_is_refused() -> None:
    """A misspelt command ends with status 2."""
    status, said = run("serv")
    assert status == 2
    assert "serv" in said


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--log-level", "loud"], "log_level"),
        (["--workers", "0"], "workers"),
        (["--port", "70000"], "port"),
    ],
)
def test_wrong_values_are_named(options: list[str], named: str) -> None:
    """A value out of range ends the program before anything starts, and names the option."""
    status, said = run("serve", *options)
    assert status != 0
    assert named in said


def test_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the environment is checked as options are."""
    monkeypatch.setenv("MOEPLACE_DRAIN_SECONDS", "-1")
    status, said = run("serve")
    assert status == 2
    assert said.startswith("moeplace: drain_seconds: ")
    assert "'-1'" in said
