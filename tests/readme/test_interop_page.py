"""docs/interop.md: its tables are the registry, and its commands are ones that exist."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import typer.main

from app.cli import COMMANDS, command_line
from moeplace_agent.interop.registry import PLACEMENTS, RECORDINGS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")


def test_every_format_has_its_row() -> None:
    """Name and layer convention of each format, in the order of the registry, and no others."""
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (model|moe|either) \| (.+) \|$", PAGE, re.MULTILINE)
    known = [(name, recording.numbering) for name, recording in RECORDINGS.items()]
    known += [(name, placement.index.value) for name, placement in PLACEMENTS.items()]
    assert [(name, index) for name, _, index, _ in rows] == known
    said = {name: note for name, _, _, note in rows}
    for recording in RECORDINGS.values():
        assert ("by rank" in said[recording.name]) == recording.ranks


def test_every_command_exists() -> None:
    """Each line that begins with moeplace names a command, a format and options that there are."""
    lines = re.findall(r"^ {4,}moeplace (.+)$", PAGE, re.MULTILINE)
    assert len(lines) > 8
    for line in lines:
        name, *words = shlex.split(line)
        command = next(entry for entry in COMMANDS if entry.name == name)
        root = typer.main.get_command(command_line([name]))
        parser = root.commands[name]  # type: ignore[attr-defined]
        options = {option for parameter in parser.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
        assert import_module(command.module)
        if name in ("import", "export") and words[0] != "--formats":
            assert words[0] in PLACEMENTS or (name == "import" and words[0] in RECORDINGS), line
