"""The planner's kernels without a compiler, and with one that has nothing left to do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PLANS = """
import numpy as np
from migrations.kernels import assignment, bits, drops, events, latency, listing, loads, relaying, spreading
from migrations.model import encode_plan
from migrations.planner import plan
from migrations.warm import warm
from solvers.problem import Coupling
from tests.migrations.instances import random_change

def compiled():
    modules = (assignment, bits, drops, events, latency, listing, loads, relaying, spreading)
    kernels = [kernel for module in modules for kernel in vars(module).values()]
    return sum(len(kernel.signatures) for kernel in kernels if hasattr(kernel, "signatures"))

warm()
before = compiled()
rng = np.random.default_rng(3)
for coupling in Coupling:
    for origin, devices in ((False, 1), (True, 1), (False, 2)):
        change = None
        while change is None:
            change = random_change(
                rng, nodes=4, blocks=2, experts=6, copies=1.6, fill=0.95, origin=origin,
                min_replicas=1, equal_sizes=bool(rng.integers(2)), devices=devices,
            )
        problem = change.problem.replace(coupling=coupling)
        print(encode_plan(plan(problem, change.source, change.target)).decode())
print(before > 0, compiled() - before)
"""


def test_interpreted_kernels_give_the_same_plans_and_nothing_is_compiled_after_warm() -> None:
    """Without JIT the same plans come out, move by move; with it, `warm` has compiled all that plans need."""
    outputs = []
    for disabled in ("1", "0"):
        done = subprocess.run(
            [sys.executable, "-c", _PLANS],
            cwd=ROOT,
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.splitlines())
    assert outputs[0][:-1] == outputs[1][:-1]
    assert len(outputs[0]) == 10
    assert outputs[0][-1] == "False 0"
    assert outputs[1][-1] == "True 0"
