"""`from moeplace import ...`: the Python API as a user imports it."""

import doctest
import subprocess
import sys

import moeplace


def test_the_example_of_the_package_runs() -> None:
    """The example in the docstring solves, plans and verifies, and gives what it says."""
    outcome = doctest.testmod(moeplace)
    assert outcome.attempted >= 6
    assert outcome.failed == 0


def test_every_public_name_is_there() -> None:
    """Each name of `__all__` can be imported from `moeplace`, and another name is an ImportError."""
    for name in moeplace.__all__:
        assert getattr(moeplace, name) is not None
    script = "from moeplace import nonsense"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ImportError: cannot import name 'nonsense'" in ended.stderr


def test_types_need_no_kernels() -> None:
    """A process that only describes problems does not import numba."""
    script = "import sys; from moeplace import PlacementProblem; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
