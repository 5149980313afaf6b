"""`python -m benchmarks.sampling`: what a placement made from few sampled routes costs on the next tokens.

Recorded requests of one model, similar ones next to each other, are dealt to nodes. Half of each node's
requests are what it has served: all of their calls are counted, and the routes of 16 to 1,024 tokens per node
and layer are sampled. The problem is made of both as the service makes it, with routes of the fleet where a
node sampled few (`app.statistics.shrinkage`) and without. Loss is the cost on the other half of the requests
over the cost there of a placement made from every route of the first half, less one.

Then the confidence of the true gap (`solvers.confidence`): tokens are drawn from all recorded ones, so that
the truth is known, a placement is made from some, and batches of others give the bound, which holds or not.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import Device, NodeRecord, NodeSpec
from app.statistics.fleet import Fleet
from app.statistics.routes import Routes, fleet_routes
from app.statistics.shrinkage import shrunk
from app.statistics.statistics import Statistics, Traffic
from benchmarks.quality.instances import EXPERT_BYTES, ORIGIN_SECONDS, fleet
from benchmarks.quality.traces import Trace, load_traces
from solvers.algorithms import solve
from solvers.confidence import gap_interval
from solvers.cost.evaluate import evaluate
from solvers.problem import Coupling, PlacementProblem, UInt8
from solvers.result import SolveResult

TRACES = ("tiny-moe", "gpt-oss-20b", "deepseek-v2-lite")
SAMPLES = (16, 64, 256, 1024)
NODES, LAYERS, MEMORY = 4, 3, 0.3
PARAMS = {"effort": 60}

CONFIDENCE, BATCHES, COVERAGE_LAYERS = 0.9, 6, 1
BATCH_SAMPLES = (64, 256)

Tokens = list[npt.NDArray[np.int32]]
"""Of each node, int32[tokens, layers, K], every route ascending."""


@dataclass(frozen=True)
class Loss:
    """Means over the repetitions; promised: cost on the next tokens over the cost that was promised."""

    trace: str
    samples: int
    alone: float
    shrunk: float
    alone_promised: float
    shrunk_promised: float


@dataclass(frozen=True)
class Coverage:
    """How often the bound at CONFIDENCE was at least the gap to the best placement known, and to the proven
    lower bound; and means over the repetitions, as parts of the cost."""

    trace: str
    samples: int
    repetitions: int
    covers_known: int
    covers_proven: int
    known_gap: float
    bound: float


class Setting:
    """One trace on one fleet."""

    def __init__(self, trace: Trace, seed: int, layers: int = LAYERS) -> None:
        self.trace, self.rng, self.layers = trace, np.random.default_rng([seed, NODES]), layers
        capacity, latency = fleet(NODES, self.layers * trace.experts, MEMORY, self.rng)
        self.load = self.rng.uniform(0.5, 1.5, NODES)
        nothing = np.zeros(0, np.int32)
        self.empty = PlacementProblem(
            expert_bytes=np.full(self.layers, EXPERT_BYTES),
            experts_per_block=np.full(self.layers, trace.experts),
            capacity_bytes=capacity * EXPERT_BYTES,
            latency_seconds=latency,
            origin_latency_seconds=np.full(NODES, ORIGIN_SECONDS),
            route_node=nothing,
            route_block=nothing,
            route_experts=nothing.reshape(0, 1),
            route_rate=np.zeros(0),
            coupling=Coupling.SLOWEST,
            min_replicas=0,
        )
        top_k = trace.requests[0].shape[2]
        now = datetime.now(UTC)
        blocks = [
            Block(layer=layer, experts=trace.experts, expert_bytes=EXPERT_BYTES, top_k=top_k)
            for layer in range(self.layers)
        ]
        self._model = ModelRecord(
            model_id="m",
            digest="d",
            created_at=now,
            updated_at=now,
            blocks=blocks,
            source="blocks",
            origin_url=None,
        )
        spec = NodeSpec(instance_uid="i", devices=[Device(device_id="g", memory_bytes=1)])
        self._fleet = Fleet.of(
            [self._model],
            [
                NodeRecord(node_id=f"n{n}", uid="u", created_at=now, updated_at=now, spec=spec)
                for n in range(NODES)
            ],
        )

    def halves(self) -> tuple[Tokens, Tokens]:
        """The requests of each node, dealt into two parts by chance."""
        lengths = np.array([len(request) for request in self.trace.requests])
        home = (np.cumsum(lengths) - lengths) * NODES // lengths.sum()
        parts: tuple[Tokens, Tokens] = ([], [])
        for n in range(NODES):
            order = self.rng.permutation(np.flatnonzero(home == n))
            for part, chosen in zip(parts, np.array_split(order, 2), strict=True):
                own = np.concatenate([self.trace.requests[i][:, : self.layers] for i in chosen])
                part.append(np.sort(own.astype(np.int32), axis=2))
        return parts

    def drawn(self, tokens: Tokens, number: int, *, again: bool = False) -> Tokens:
        """So many of each node's, by chance; `again`: one may be drawn more than once."""
        return [own[self.rng.choice(len(own), min(number, len(own)), replace=again)] for own in tokens]

    def problem(self, tokens: Tokens) -> PlacementProblem:
        """All routes of the tokens."""
        return self._with(
            Routes(
                np.concatenate(
                    [np.full(len(own) * self.layers, n, np.int32) for n, own in enumerate(tokens)]
                ),
                np.concatenate([np.tile(np.arange(self.layers, dtype=np.int32), len(own)) for own in tokens]),
                np.concatenate([own.reshape(-1, own.shape[2]) for own in tokens]),
                np.concatenate(
                    [np.full(len(own) * self.layers, self.load[n] / len(own)) for n, own in enumerate(tokens)]
                ),
            )
        )

    def served(self, counted: Tokens, sampled: Tokens, *, shrink: bool) -> PlacementProblem:
        """As the service makes it: counts of all tokens, routes of some."""
        statistics = Statistics(
            {(f"n{n}", "m"): self._traffic(n, counted[n], sampled[n]) for n in range(NODES)}, None
        )
        alive = np.ones(NODES, np.bool_)
        if shrink:
            statistics = shrunk(self._fleet, statistics, alive)
        return self._with(fleet_routes(self._fleet, statistics, alive))

    def _traffic(self, node: int, counted: npt.NDArray[np.int32], sampled: npt.NDArray[np.int32]) -> Traffic:
        experts = self.trace.experts
        columns = (counted + np.arange(self.layers)[:, None] * experts).reshape(-1)
        rates = np.bincount(columns, minlength=self.layers * experts) * (self.load[node] / len(counted))
        routes = np.concatenate([sampled[:, layer] for layer in range(self.layers)])
        block = np.repeat(np.arange(self.layers, dtype=np.int32), len(sampled))
        ones = np.ones(len(block))
        samples = np.full(self.layers, float(len(sampled)))
        return Traffic("d", self.load[node], rates, rates / 2, block, routes, ones, ones / 2, 1, 0, samples)

    def _with(self, routes: Routes) -> PlacementProblem:
        return self.empty.replace(
            route_node=routes.node,
            route_block=routes.block,
            route_experts=routes.experts,
            route_rate=routes.rate,
        )


def _solved(problem: PlacementProblem, **more: int) -> SolveResult:
    return solve(problem, params={**PARAMS, **more})


def _holds(problem: PlacementProblem) -> UInt8:
    placement = _solved(problem, bound_steps=0).placement
    assert placement is not None
    return placement.holds


def losses(trace: Trace, repetitions: int) -> list[Loss]:
    """Of every number of samples."""
    found: dict[int, list[list[float]]] = {samples: [] for samples in SAMPLES}
    for seed in range(repetitions):
        setting = Setting(trace, seed)
        before, after = setting.halves()
        truth = setting.problem(after)
        best = evaluate(truth, _holds(setting.problem(before)))
        for samples in SAMPLES:
            sampled, row = setting.drawn(before, samples), []
            for shrink in (False, True):
                problem = setting.served(before, sampled, shrink=shrink)
                holds = _holds(problem)
                cost = evaluate(truth, holds)
                row += [cost / best - 1.0, cost / evaluate(problem, holds)]
            found[samples].append(row)
    rows = []
    for samples, values in found.items():
        alone, alone_promised, completed, promised = np.mean(values, axis=0).tolist()
        rows.append(Loss(trace.name, samples, alone, completed, alone_promised, promised))
        print(rows[-1], flush=True)
    return rows


def coverage(trace: Trace, repetitions: int) -> list[Coverage]:
    """Of both sizes of a batch."""
    rows = []
    for samples in BATCH_SAMPLES:
        known, proven, gaps, bounds = 0, 0, [], []
        for seed in range(repetitions):
            setting = Setting(trace, seed, COVERAGE_LAYERS)
            tokens = setting.halves()[0]
            truth = setting.problem(tokens)
            solved = _solved(truth)
            assert solved.objective is not None
            assert solved.lower_bound is not None
            holds = _holds(setting.problem(setting.drawn(tokens, samples, again=True)))
            batches = [setting.problem(setting.drawn(tokens, samples, again=True)) for _ in range(BATCHES)]
            found = gap_interval(batches, holds, confidence=CONFIDENCE)
            assert found is not None
            cost = evaluate(truth, holds)
            known += bool(found.gap_upper >= cost - solved.objective)
            proven += bool(found.gap_upper >= cost - solved.lower_bound)
            gaps.append((cost - solved.objective) / cost)
            bounds.append(found.gap_upper_ratio)
        rows.append(
            Coverage(
                trace.name, samples, repetitions, known, proven, float(np.mean(gaps)), float(np.mean(bounds))
            )
        )
        print(rows[-1], flush=True)
    return rows


def markdown(losses: list[Loss], coverages: list[Coverage], repetitions: int, absent: list[str]) -> str:
    """Both tables."""
    lines = [
        f"`python -m benchmarks.sampling --repetitions {repetitions}`: {NODES} nodes, {LAYERS} layers, "
        f"`slowest`, an origin. Means over {repetitions} repetitions.",
        "",
        "Loss on requests that were not sampled, with every call counted: cost over the cost of a placement "
        "made from every route, less one. In brackets, cost over the cost that was promised.",
        "",
        "| trace | samples per node and layer | own routes alone | with routes of the fleet |",
        "|---|---:|---:|---:|",
        *(
            f"| {row.trace} | {row.samples} | {row.alone:.1%} ({row.alone_promised:.2f}) "
            f"| {row.shrunk:.1%} ({row.shrunk_promised:.2f}) |"
            for row in losses
        ),
        "",
        f"Upper bound on the true gap of a placement of one layer at a confidence of {CONFIDENCE:.0%}, from "
        f"{BATCHES} batches: how often it was at least the gap to the best placement known and to the proven "
        "lower bound, and the mean gap and bound as parts of the cost.",
        "",
        "| trace | samples per node and layer of a batch | covers the best known | covers the lower bound "
        "| gap to the best known | bound |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {row.trace} | {row.samples} | {row.covers_known} of {row.repetitions} "
            f"| {row.covers_proven} of {row.repetitions} | {row.known_gap:.1%} | {row.bound:.1%} |"
            for row in coverages
        ),
        "",
        *(f"{line}." for line in absent),
    ]
    return "\n".join([*lines, ""]) if absent else "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "sampling")
    given = parser.parse_args()
    traces, absent = load_traces()
    absent = [line for line in absent if any(name in line for name in ("gpt-oss", "deepseek"))]
    for line in absent:
        print(line)
    chosen = [trace for trace in traces if trace.name in TRACES]
    lost = [row for trace in chosen for row in losses(trace, given.repetitions)]
    covered = [row for trace in chosen for row in coverage(trace, 3 * given.repetitions)]
    text = markdown(lost, covered, given.repetitions, absent)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".md").write_text(text, encoding="utf-8")
    figures = {"losses": [asdict(row) for row in lost], "coverages": [asdict(row) for row in covered]}
    given.out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
