"""`from solvers import ...`: the library as a user imports it."""

import doctest
import subprocess
import sys

import solvers


def test_the_example_of_the_package_runs() -> None:
    """The example in the docstring of `solvers` gives what it says."""
    outcome = doctest.testmod(solvers)
    assert outcome.attempted >= 4
    assert outcome.failed == 0


def test_every_public_name_is_there_and_no_other() -> None:
    """Each name of `__all__` can be imported from `solvers`; another name is an ImportError."""
    for name in solvers.__all__:
        assert getattr(solvers, name) is not None
    outcome = subprocess.run(
        [sys.executable, "-c", "from solvers import nonsense"], capture_output=True, text=True, check=False
    )
    assert "ImportError: cannot import name 'nonsense'" in outcome.stderr


def test_reading_a_problem_does_not_load_the_kernels() -> None:
    """A process that only describes problems does not import numba."""
    script = "import sys; from solvers import PlacementProblem; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
