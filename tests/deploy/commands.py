"""Commands and settings that deployments name, checked against the program itself."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import typer.main
from typer.core import TyperGroup

from app.cli import command_line
from app.config import Settings

EXAMPLE_NODE = Path(__file__).parents[2] / "deploy" / "examples" / "site" / "node.yaml"
VARIABLES = {f"MOEPLACE_{name.upper()}" for name in Settings.model_fields}


def require_command(arguments: Sequence[str]) -> None:
    """`moeplace ARGUMENTS` parses: the command exists, and so does each option, with a value it takes."""
    group = typer.main.get_command(command_line(arguments))
    assert isinstance(group, TyperGroup)
    with group.make_context("moeplace", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, list(arguments))
        assert command is not None, arguments
        with command.make_context(name, list(rest), parent=context):
            pass


def in_examples(argument: str) -> str:
    """The argument with the example's node.yaml in place of the installed one."""
    return argument.replace("/etc/moeplace/node.yaml", str(EXAMPLE_NODE))


def require_settings(names: Iterable[str]) -> None:
    """Each variable is one that the service reads."""
    unknown = sorted(name for name in names if name.startswith("MOEPLACE_") and name not in VARIABLES)
    assert not unknown, f"{unknown} are no settings"


def variables_of(text: str) -> dict[str, str]:
    """Of a file for EnvironmentFile=."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Z_]+)=(.*)", line)
        assert match is not None, line
        found[match[1]] = match[2]
    return found
