"""Programs that tests run and pip does not bring: `make tools` installs them where Debian's packages are."""

import os
import shutil
from pathlib import Path

import pytest


def program(name: str) -> Path:
    """Where it is. Without it a test is skipped, and says so; in CI (CI=true) it fails."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    words = f"{name} is not installed: run make tools"
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)
