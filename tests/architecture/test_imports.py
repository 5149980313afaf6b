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
