"""Programs that check what is deployed. A developer may do without; where CI is set they have to be there."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def program(name: str) -> str:
    """Its path, beside this Python or on PATH; skips, or fails in CI, where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        missing(name)
    return str(found)


def package(name: str) -> Any:
    """A module that only these tests need; skips, or fails in CI, where it is not installed."""
    if importlib.util.find_spec(name) is None:
        missing(name)
    return importlib.import_module(name)


def missing(name: str) -> None:
    words = f"{name} is not here: make tools"
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


def run(*command: str) -> str:
    """What it prints on stdout; fails with all that it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
