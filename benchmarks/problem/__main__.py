"""`python -m benchmarks.problem`: what it costs to make the problem of a large fleet from its statistics.

Every node has counts of every expert and the routes of some tokens of each layer. Each size is built in a
process of its own. Figures are processor seconds, of all threads, and the largest memory that the process
took beyond what the statistics themselves take.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from app.clusters.schemas import ClusterSettings, OriginSpec
from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import Device, NodeRecord, NodeSpec
from app.statistics.fleet import Fleet
from app.statistics.problem import build_problem
from app.statistics.statistics import Statistics, Traffic
from app.statistics.warm import warm

BLOCKS, EXPERTS, TOP_K = 58, 256, 8
SIZES = ((100, 64), (1000, 64), (1000, 256))
"""Nodes, and routes that each sampled of a layer."""

DIFFERENT = 20


@dataclass(frozen=True)
class Row:
    """seconds: of the problem; halves_seconds: of both halves of the traffic, which a trial needs."""

    nodes: int
    routes_per_layer: int
    routes: int
    seconds: float
    halves_seconds: float
    bytes_at_most: int


def fleet(nodes: int) -> Fleet:
    """Nodes of one kind, and one model."""
    now = datetime.now(UTC)
    blocks = [Block(layer=layer, experts=EXPERTS, expert_bytes=1, top_k=TOP_K) for layer in range(BLOCKS)]
    model = ModelRecord(
        model_id="m",
        digest="d",
        created_at=now,
        updated_at=now,
        blocks=blocks,
        source="blocks",
        origin_url=None,
    )
    spec = NodeSpec(instance_uid="i", devices=[Device(device_id="g", memory_bytes=4096)])
    return Fleet.of(
        [model],
        [
            NodeRecord(node_id=f"n{n:04}", uid="u", created_at=now, updated_at=now, spec=spec)
            for n in range(nodes)
        ],
    )


def statistics(nodes: int, routes: int) -> Statistics:
    """Experts of unequal popularity, others at each node of DIFFERENT, which the rest are copies of; about
    half of the tokens in either half of the time."""
    generator = np.random.default_rng(nodes)
    block = np.repeat(np.arange(BLOCKS, dtype=np.int32), routes)
    different = []
    for _ in range(min(nodes, DIFFERENT)):
        popular = generator.gamma(0.5, 1.0, (BLOCKS, EXPERTS))
        keys = generator.random((BLOCKS, routes, EXPERTS), np.float32) ** (
            1.0 / (popular[:, None] + 0.01).astype(np.float32)
        )
        experts = np.sort(np.argpartition(-keys, TOP_K, axis=2)[:, :, :TOP_K], axis=2)
        rates = (popular + 0.01).reshape(-1)
        rates *= 100.0 * TOP_K * BLOCKS / rates.sum()
        ones = np.ones(len(block))
        even = (generator.random(len(block)) < 0.5).astype(np.float64)
        different.append(
            Traffic(
                "d",
                100.0,
                rates,
                rates * generator.uniform(0.3, 0.7, len(rates)),
                block,
                experts.reshape(-1, TOP_K).astype(np.int32),
                ones,
                even,
                1,
                0,
                np.full(BLOCKS, float(routes)),
            )
        )
    return Statistics({(f"n{n:04}", "m"): different[n % len(different)] for n in range(nodes)}, None)


def measure(nodes: int, routes: int) -> Row:
    """One size, the same for everybody who measures it."""
    warm()
    made, known = fleet(nodes), statistics(nodes, routes)
    before, began = _resident_bytes(), time.process_time()
    built = build_problem(
        made,
        ClusterSettings(origin=OriginSpec(latency_seconds=0.08), min_replicas=0),
        known,
        holds=np.zeros(made.shape, np.uint8),
        live=set(made.node_ids),
        statuses={},
    )
    seconds = time.process_time() - began
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    began = time.process_time()
    assert built.halves() is not None
    halves = time.process_time() - began
    return Row(nodes, routes, len(built.problem.route_rate), seconds, halves, most)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [
        f"`python -m benchmarks.problem`: nodes with counts of every expert of {BLOCKS} layers of {EXPERTS} "
        f"experts, {TOP_K} a token, and sampled routes. Processor seconds of all threads.",
        "",
        "| nodes | routes sampled per node and layer | routes of the problem | problem | both halves, where "
        "a trial needs them | memory at most |",
        "|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {row.nodes:,} | {row.routes_per_layer} | {row.routes:,} | {row.seconds:.2f} s "
            f"| {row.halves_seconds:.2f} s | {row.bytes_at_most / 1e9:.2f} GB |"
            for row in rows
        ),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.problem", description=__doc__)
    parser.add_argument("--nodes", type=int, help="of this size alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "problem")
    given = parser.parse_args()
    rows = []
    for nodes, routes in SIZES:
        if given.nodes in (None, nodes):
            with ProcessPoolExecutor(1, get_context("fork")) as alone:
                rows.append(alone.submit(measure, nodes, routes).result())
            print(rows[-1], flush=True)
    if given.nodes is None:
        given.out.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
        given.out.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
