"""On real routing of GPT-OSS-20B, where it is at hand: `sgd` against the baselines, with a certificate that
counts."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from solvers.algorithms import solve
from solvers.feasible.violations import shortfalls
from solvers.problem import Coupling, PlacementProblem

_FOLDER = os.environ.get("MOEPLACE_TRACES", str(Path(__file__).parents[2].parent / "shared" / "data"))
TRACES = Path(_FOLDER) / "gpt-oss-20b-fingerprint" / "dev_traces.npz"
NODES = 4


@pytest.fixture(scope="module")
def problem() -> PlacementProblem:
    """24 blocks of 32 experts on 4 unequal nodes with 1.5 copies of everything; requests belong to nodes in
    turn."""
    if not TRACES.exists():
        pytest.skip(f"no traces at {TRACES}")
    with np.load(TRACES, allow_pickle=False) as archive:
        ids, lengths = archive["ids"], archive["lengths"]
    node = np.repeat(np.arange(len(lengths)) * NODES // len(lengths), lengths)
    chosen = np.random.default_rng(0).permutation(len(ids))[:4000]
    tokens, blocks, k = len(chosen), ids.shape[1], ids.shape[2]
    size = 13_000_000
    latency = np.array([[1, 4, 6, 9], [4, 1, 5, 8], [6, 5, 1, 4], [9, 8, 4, 1]]) * 1e-3
    values: dict[str, Any] = {
        "expert_bytes": np.full(blocks, size),
        "experts_per_block": np.full(blocks, 32),
        "capacity_bytes": np.array([460, 320, 230, 142]) * size,
        "latency_seconds": latency,
        "origin_latency_seconds": np.full(NODES, 0.05),
        "route_node": np.repeat(node[chosen], blocks).astype(np.int32),
        "route_block": np.tile(np.arange(blocks), tokens).astype(np.int32),
        "route_experts": ids[chosen].reshape(-1, k).astype(np.int32),
        "route_rate": np.ones(tokens * blocks),
    }
    return PlacementProblem(**values)


@pytest.mark.parametrize("coupling", list(Coupling))
def test_beats_the_baselines_and_certifies(problem: PlacementProblem, coupling: Coupling) -> None:
    """The cost is below every baseline's, and the certified gap is at most 45 %."""
    instance = problem.replace(coupling=coupling)
    best = solve(instance, "sgd")
    assert best.placement is not None
    assert best.objective is not None
    assert best.gap_ratio is not None
    assert not shortfalls(instance, best.placement.holds)
    for algorithm in ("uniform", "local_popularity", "eplb"):
        other = solve(instance, algorithm, params={"bound_steps": 0})
        assert other.objective is not None
        assert best.objective < other.objective
    assert best.gap_ratio < 0.45
