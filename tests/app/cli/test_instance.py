"""`moeplace instance`: from a recording and a fleet to an instance that solves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from app.cli import command_line
from solvers.algorithms import solve
from solvers.io.files import load_problem
from solvers.problem import Coupling

FLEET: dict[str, Any] = {
    "expert_bytes": 10,
    "latency_seconds": {"local": 0.001, "remote": 0.004},
    "nodes": [
        {"name": "east", "capacity": 0.5, "domains": {"python": 120, "c": 30}},
        {"capacity_bytes": 80, "domains": {"c@0:0.5": 10}},
        {"device_bytes": [30, 20]},
    ],
}

NODE: dict[str, Any] = {"capacity": 1, "domains": {"c": 1}}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    python, c = (np.argsort(rng.random((40, 2, 4)), axis=2)[:, :, :2].astype(np.uint8) for _ in range(2))
    path = tmp_path / "traces.npz"
    np.savez(path, counts=np.full((2, 4), 5), c__seqlen=np.array([40]), python=python, c=c)
    return tmp_path / "traces.npz"


def _run(trace: Path, fleet: Any, out: Path | None = None) -> tuple[int, str, str]:
    described = trace.with_name("fleet.yaml")
    described.write_text(fleet if isinstance(fleet, str) else yaml.safe_dump(fleet), encoding="utf-8")
    words = ["instance", str(trace), str(described), "--out", str(out or trace.with_name("instance.npz"))]
    result = CliRunner().invoke(command_line(words), words)
    return result.exit_code, result.stdout, result.stderr


def test_builds_what_the_files_say(trace: Path) -> None:
    """Rates by domain and part, memory in three ways, latencies from two numbers; the result solves."""
    code, output, _ = _run(trace, FLEET)
    assert code == 0
    problem = load_problem(trace.with_name("instance.npz"))
    summary = json.loads(output)
    assert (summary["nodes"], summary["blocks"], summary["experts"]) == (3, 2, 8)
    assert problem.capacity_bytes.tolist() == [40, 80, 50]
    assert problem.devices[1].tolist() == [40, 80, 30, 20]
    assert problem.latency_seconds[0].tolist() == [0.001, 0.004, 0.004]
    assert np.isinf(problem.origin_latency_seconds).all()
    assert problem.coupling is Coupling.SLOWEST
    rate = np.zeros((3, 2))
    np.add.at(rate, (problem.route_node, problem.route_block), problem.route_rate)
    assert rate == pytest.approx(np.array([[150, 150], [10, 10], [0, 0]]))
    with np.load(trace) as recorded:
        half = recorded["c"][:20]
    pair = (np.sort(half[:, 1], axis=1) == sorted(half[0, 1])).all(axis=1).mean()
    here = (problem.route_node == 1) & (problem.route_block == 1)
    same = here & (problem.route_experts == sorted(half[0, 1].tolist())).all(axis=1)
    assert problem.route_rate[same].sum() == pytest.approx(10 * pair)
    assert solve(problem).placement is not None


def test_counts_matrices_and_everything_optional(trace: Path) -> None:
    """Counts with top_k, sizes by layer, a full latency matrix, an origin, bandwidths and a horizon."""
    nodes = [
        {
            "capacity": 0.5,
            "domains": {"counts": 6},
            "ingress_bytes_per_second": 5,
            "egress_bytes_per_second": 4,
        },
        {"capacity": 0.5, "ingress_bytes_per_second": 50, "egress_bytes_per_second": 40},
    ]
    fleet = {
        "expert_bytes": [10, 30],
        "experts": 5,
        "top_k": 2,
        "coupling": "sum",
        "min_replicas": 0,
        "latency_seconds": [[0.1, 0.2], [0.3, 0.1]],
        "origin_latency_seconds": 0.5,
        "horizon_seconds": 60,
        "nodes": nodes,
    }
    code, _, errors = _run(trace, fleet)
    assert code == 0, errors
    problem = load_problem(trace.with_name("instance.npz"))
    assert problem.experts_per_block.tolist() == [5, 5]
    assert problem.capacity_bytes.tolist() == [100, 100]
    assert problem.route_rate == pytest.approx(np.full(8, 6 * 2 / 4))
    assert problem.latency_seconds.tolist() == [[0.1, 0.2], [0.3, 0.1]]
    assert (problem.min_replicas, problem.horizon_seconds, problem.coupling) == (0, 60.0, Coupling.SUM)
    assert problem.ingress_bytes_per_second is not None


def _with(**changes: Any) -> dict[str, Any]:
    return FLEET | changes


@pytest.mark.parametrize(
    ("fleet", "words"),
    [
        ("nodes: [", "file: not YAML, line 1"),
        ("just text", "file: input should be a valid dictionary"),
        (_with(nodes=[]), "nodes: list should have at least 1 item"),
        (_with(speed=3), "speed: extra inputs are not permitted"),
        (_with(expert_bytes=0), "expert_bytes: input should be greater than or equal to 1"),
        (_with(expert_bytes=[1]), "expert_bytes: has 1 entries, expected 2, one per layer"),
        (_with(experts=3), "experts: is 3, expected at least 4"),
        (_with(latency_seconds=[[1.0]]), "latency_seconds: expected 3 rows of 3 numbers"),
        (_with(nodes=[{"capacity": 0.5}]), "nodes: none has domains, expected some of"),
        (_with(nodes=[{"domains": {"c": 1}}]), "nodes.0: expected one of capacity"),
        (
            _with(nodes=[{"capacity": 1, "capacity_bytes": 1, "domains": {"c": 1}}]),
            "nodes.0: expected one of",
        ),
        (_with(nodes=[{"capacity": 1, "domains": {"go": 1}}]), "nodes.0.domains: 'go' is not recorded"),
        (_with(nodes=[{"capacity": 1, "domains": {"c@0:1.2.3": 1}}]), "nodes.0.domains: 'c@0:1.2.3'"),
        (_with(nodes=[{"capacity": 1, "domains": {"c@0.5:0.2": 1}}]), "c: part 0.5:0.2"),
        (_with(nodes=[{"capacity": 1, "domains": {"counts": 1}}]), "counts: holds counts, expected top_k"),
        (_with(nodes=[{"capacity": 2, "domains": {"c": 1}}]), "nodes.0.capacity: input should be less than"),
        (
            _with(
                nodes=[{"capacity": 1, "domains": {"c": 1}, "ingress_bytes_per_second": 1}, {"capacity": 1}]
            ),
            "nodes.1.ingress_bytes_per_second: absent",
        ),
        (_with(min_replicas=0), "min_replicas: is 0, expected at least 1 since node 0 has no origin"),
    ],
)
def test_faults_are_named(trace: Path, fleet: Any, words: str) -> None:
    """One line on stderr with the file and the key, status 2, no instance written."""
    code, output, errors = _run(trace, fleet)
    assert (code, output) == (2, "")
    assert f"fleet.yaml: {words}" in errors
    assert len(errors.splitlines()) == 1
    assert not trace.with_name("instance.npz").exists()


def test_unreadable_files_are_named(trace: Path) -> None:
    """The file that cannot be read or written is the one that is named."""
    code, _, errors = _run(trace.with_name("none.npz"), FLEET)
    assert (code, "none.npz: No such file" in errors) == (2, True)
    code, _, errors = _run(trace, FLEET, trace.parent / "no" / "out.npz")
    assert (code, "out.npz: No such file" in errors) == (2, True)
    trace.write_bytes(b"PK")
    code, _, errors = _run(trace, FLEET)
    assert (code, "traces.npz: file: not a readable" in errors) == (2, True)
