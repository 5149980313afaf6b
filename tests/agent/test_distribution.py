"""The agent is installed by itself on nodes: what it imports is what it declares."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[2] / "agent"
PROJECT = tomllib.loads((AGENT / "pyproject.toml").read_text())["project"]


def declared() -> set[str]:
    """The distributions that it names, those of its extras too."""
    extras = PROJECT["optional-dependencies"].values()
    requirements = [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]
    return {re.split(r"[\[><=~! ;]", requirement)[0] for requirement in requirements}


def imported() -> set[str]:
    """The top-level modules that its code imports, without the standard library and itself."""
    found: set[str] = set()
    for path in (AGENT / "moeplace_agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"moeplace_agent"}


def test_every_import_belongs_to_a_declared_dependency() -> None:
    """An agent that is installed alone finds all that it imports; pydantic brings its own core."""
    distributions = importlib.metadata.packages_distributions()
    names = {"pydantic_core": ["pydantic"], "torch": ["torch"], "transformers": ["transformers"]}
    missing = {
        module
        for module in imported()
        if not {name.lower().replace("_", "-") for name in names.get(module) or distributions.get(module, [])}
        & declared()
    }
    assert missing == set()


def test_it_loads_nothing_of_the_service() -> None:
    """Neither numba, scipy, FastAPI and redis nor the service's packages, whatever its commands import."""
    script = (
        "import sys, moeplace_agent.cli.agent, moeplace_agent.cli.origin, moeplace_agent.interop.registry\n"
        "print(*{'app', 'solvers', 'migrations', 'numba', 'scipy', 'fastapi', 'redis'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


@pytest.mark.parametrize("program", ["agent", "origin"])
def test_its_programs_explain_themselves(program: str) -> None:
    """`moeplace-agent --help` and `moeplace-origin --help` name the program and its options."""
    script = f"from moeplace_agent.cli.programs import {program}; {program}()"
    ended = subprocess.run(
        [sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True
    )
    assert f"moeplace-{program}" in ended.stdout
    assert "--log-level" in ended.stdout


def test_a_misspelt_variable_of_the_agent_is_named(tmp_path: Path) -> None:
    """A variable like one that the agent reads is named; one of a service on the same host is not."""
    script = "from moeplace_agent.cli.programs import agent; agent()"
    ended = subprocess.run(
        [sys.executable, "-c", script, "--config", str(tmp_path / "absent.yaml"), "--check"],
        env={
            "MOEPLACE_LOG_LEVLE": "debug",
            "MOEPLACE_REDIS_URL": "redis://x",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    first, *rest = ended.stderr.splitlines()
    assert first.endswith(
        "there is no variable MOEPLACE_LOG_LEVLE, it is ignored; did you mean MOEPLACE_LOG_LEVEL?"
    )
    assert ended.returncode == 2
    assert "MOEPLACE_REDIS_URL" not in "".join(rest)
