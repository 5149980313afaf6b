"""The import rules: which part may use which. The rules themselves stand in pyproject.toml."""

import ast
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]


def test_import_contracts_hold() -> None:
    """Every contract of [tool.importlinter] holds for the tree as it is."""
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_libraries_know_no_time_of_day() -> None:
    """Solvers and migrations read no clock but the monotonic one that measures their own running time."""
    offences = []
    for path in sorted([*(ROOT / "solvers").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if name in {"time.time", "datetime.now", "datetime.utcnow", "date.today", "time.time_ns"}:
                    offences.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert offences == []


OWN_CLOCKS = ("cli",)
"""Of `app`: programs that measure what they do themselves, and share no deadline with another process."""

OWN_CLOCK_FILES = ("app/storage/clock.py", "app/http/measuring.py")


def test_the_clock_of_a_host_decides_nothing() -> None:
    """The service takes the time from `app.storage.clock`: hosts' clocks differ, and a lease or a deadline
    that two processes share would end at two times."""
    offences = []
    for path in sorted((ROOT / "app").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name in OWN_CLOCK_FILES or path.relative_to(ROOT / "app").parts[0] in OWN_CLOCKS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                if called in {"time.time", "datetime.now", "datetime.utcnow", "date.today", "time.time_ns"}:
                    offences.append(f"{name}:{node.lineno} {called}")
    assert offences == []
