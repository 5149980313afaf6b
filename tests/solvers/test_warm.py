"""The kernels without a compiler, and with one that has nothing left to do."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from solvers.precompile import warm
from solvers.problem import Coupling
from tests.oracles.instances import random_problem

ROOT = Path(__file__).parents[2]

_INTERPRETED = """
import numpy as np
from solvers.kernels import tables
assert not hasattr(tables.exact_table, "signatures"), "still compiled"
from solvers.dual.pdhg import lagrangian_bound
from solvers.problem import Coupling
from solvers.algorithms import ALGORITHMS, solve
from solvers.stopping import never
from solvers.traffic import compile_traffic
from tests.oracles.instances import random_problem
for coupling in Coupling:
    for seed in range(6):
        problem = random_problem(seed, coupling)
        for algorithm in ALGORITHMS:
            result = solve(problem, algorithm, params={"bound_steps": 0})
            digest = result.placement.digest if result.placement else result.shortfall
            print(coupling, seed, algorithm, digest, result.objective)
        if result.placement:
            dual = lagrangian_bound(problem, compile_traffic(problem), result.placement.holds, 1e9, 65, never)
            print(coupling, seed, dual.bound, dual.constant)
    result = solve(random_problem(7, coupling), "sgd", params={"exact_limit": 0, "bound_steps": 0})
    print(result.objective)
    result = solve(random_problem(7, coupling), "maxconv", params={"mode": "fptas", "bound_steps": 0})
    print(result.objective)
"""


def test_interpreted_kernels_give_the_same_results() -> None:
    """With and without JIT every algorithm returns the same placement and objective, and the climb, restarts
    included, the same bound."""
    outputs = []
    for disabled in ("1", "0"):
        script = _INTERPRETED if disabled == "1" else _INTERPRETED.replace("assert not", "assert")
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outputs.append([line.split() for line in done.stdout.splitlines()])
    assert len(outputs[0]) > 70
    for interpreted, compiled in zip(*outputs, strict=True):
        assert len(interpreted) == len(compiled)
        for left, right in zip(interpreted, compiled, strict=True):
            if "." in left:
                assert float(left) == pytest.approx(float(right), rel=1e-6)
            else:
                assert left == right


_COUNT = """
import importlib, pickle, pkgutil, sys
from solvers import kernels
from solvers.problem import Coupling
from solvers.precompile import warm
from solvers.algorithms import ALGORITHMS, solve
names = [found.name for found in pkgutil.iter_modules(kernels.__path__)]
modules = [importlib.import_module(f"solvers.kernels.{name}") for name in names]
def compiled():
    found = {}
    for module in modules:
        for name, kernel in vars(module).items():
            if hasattr(kernel, "signatures"):
                found[f"{module.__name__}.{name}"] = len(kernel.signatures)
    return found
warm()
before = compiled()
for problem in pickle.load(sys.stdin.buffer):
    for algorithm in ALGORITHMS if problem.routes < 100 else ("certified",):
        solve(problem, algorithm, params={"bound_steps": 70}, time_limit_seconds=0.5)
after = compiled()
print({name: count for name, count in after.items() if count > before[name]})
climb = ("calls", "hosts", "fractional")
called = [name for name in before if name.split(".")[2] in climb and "._" not in name]
print([name for name in called if before[name] == 0])
print(len(before))
"""


def test_nothing_is_compiled_after_warm() -> None:
    """After `warm`, which calls every kernel of the climb, solving instances of all kinds, which came through
    a pickle, some with enough traffic to go to threads, compiles no kernel for a new type."""
    warm()
    problems = [random_problem(seed) for seed in range(20)]
    problems += [
        random_problem(1, coupling, nodes=3, blocks=[20, 5], routes=3000, origin=origin, extras=False)
        for coupling in Coupling
        for origin in ("all", "none")
    ]
    done = subprocess.run(
        [sys.executable, "-c", _COUNT],
        cwd=ROOT,
        input=pickle.dumps(problems),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    late, never, kernels = done.stdout.decode().split("\n")[:3]
    assert late == "{}"
    assert never == "[]"
    assert int(kernels) >= 40


_REFUSING = """
import os
os.environ["NUMBA_CACHE_DIR"] = "/dev/null/nowhere"
from numba.core import caching
def nowhere(*_): return None
for locator in caching.CacheImpl._locator_classes:
    locator.from_function = classmethod(nowhere)
from solvers.kernels.compiled import compiled
@compiled
def twice(number):
    return 2 * number
assert twice(21) == 42
assert twice.signatures
print(type(twice._cache).__name__)
"""


def test_kernels_work_where_no_cache_can_be_kept() -> None:
    """On a read-only file system the kernels compile, uncached, instead of failing the import."""
    done = subprocess.run(
        [sys.executable, "-c", _REFUSING], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "NullCache\n", done.stderr
