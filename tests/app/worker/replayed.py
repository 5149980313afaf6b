"""The demo's fleet under real traces of tiny-moe, through the service's own functions from buckets of
telemetry to the decision; without Redis, without a clock, and with nodes that have moved at once."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from app.clusters.schemas import ClusterSettings, OriginSpec
from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import Device, LatencySpec, NodeRecord, NodeSpec
from app.solve.adoption import Decision, decide
from app.solver_process.tasks import SolveOutcome, SolveRequest, solve_task, trial_task
from app.statistics.coverage import Coverage
from app.statistics.fleet import Fleet
from app.statistics.problem import BuiltProblem, build_problem
from app.statistics.reservoir import Reservoir, capacity_per_block, merge, uniforms
from app.statistics.statistics import MICROSECONDS, Bucket, bucket_us, combine
from lab.demo import scenario
from lab.tiny_moe import shape, traces
from solvers.cost.evaluate import evaluate, migration_cost
from solvers.problem import UInt8
from solvers.response.partial import UNLIMITED, Budget

LAYERS = 3
"""Of the model's six: solves are short, and there are many."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = ModelRecord(
    model_id="tiny-moe",
    digest="d",
    created_at=NOW,
    updated_at=NOW,
    blocks=[
        Block(layer=n, experts=shape.EXPERTS, expert_bytes=shape.EXPERT_BYTES, top_k=shape.TOP_K)
        for n in range(LAYERS)
    ],
    source="blocks",
    origin_url=None,
)
OWN = {node.node_id: node.domain for node in scenario.NODES}
"""Each node's own domain."""

SWAPPED = OWN | {"edge-b": OWN["edge-d"], "edge-d": OWN["edge-b"]}


def settings(**changes: object) -> ClusterSettings:
    return ClusterSettings.model_validate(
        {
            "coupling": scenario.COUPLING,
            "origin": OriginSpec(latency_seconds=scenario.ORIGIN_SECONDS),
            "min_replicas": 1,
        }
        | changes
    )


def _node(spec: scenario.DemoNode) -> NodeRecord:
    row = [node.node_id for node in scenario.NODES].index(spec.node_id)
    peers = {
        peer.node_id: scenario.PEER_SECONDS[row][column]
        for column, peer in enumerate(scenario.NODES)
        if peer is not spec
    }
    return NodeRecord(
        node_id=spec.node_id,
        uid="u",
        created_at=NOW,
        updated_at=NOW,
        draining=False,
        spec=NodeSpec(
            instance_uid="i",
            devices=[Device(device_id="g", memory_bytes=spec.memory_bytes * LAYERS // shape.LAYERS)],
            ingress_bytes_per_second=spec.ingress_bytes_per_second,
            egress_bytes_per_second=spec.egress_bytes_per_second,
            latency=LatencySpec(local_seconds=scenario.LOCAL_SECONDS, peers_seconds=peers),
        ),
    )


@dataclass
class Replayed:
    """`requests`: of 256 tokens each, per node and time bucket, drawn from the domain with replacement."""

    settings: ClusterSettings
    seed: int
    requests: int = 10
    at: int = 0
    """Buckets gone by."""
    in_force: UInt8 | None = None
    generations: int = 0
    latency_seconds: float = 0.0
    """J summed over the time that has passed, as traffic really was."""
    moving_seconds: float = 0.0
    """M summed over all generations but the first."""
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fleet = Fleet.of([MODEL], [_node(node) for node in scenario.NODES])
        self._rng = np.random.default_rng(self.seed)
        self._buckets: dict[tuple[str, str], list[Bucket]] = {(name, "tiny-moe"): [] for name in OWN}
        self._span = bucket_us(self.settings)

    @property
    def bucket_seconds(self) -> float:
        return self._span / MICROSECONDS

    def pass_time(self, domains: dict[str, str], buckets: int) -> None:
        """Nodes serve requests of these domains for so many time buckets."""
        kept = -(-round(self.settings.statistics_window_seconds * MICROSECONDS) // self._span) + 1
        for _ in range(buckets):
            for (name, _), known in self._buckets.items():
                known.append(self._bucket(domains[name]))
                del known[:-kept]
            self.at += 1
            if self.in_force is not None:
                now = {key: known[-1:] for key, known in self._buckets.items()}
                cost = evaluate(self._problem(now).problem, self.in_force)
                self.latency_seconds += cost * self.bucket_seconds

    def look(self, budget: Budget = UNLIMITED) -> Decision:
        """Solve, decide, and have nodes hold what was adopted."""
        built = self._problem(self._buckets)
        outcome = self.solve(built, budget)
        decision = decide(outcome, self.settings.horizon_seconds, self.settings.min_improvement)
        self.decisions.append(decision)
        if decision.adopt:
            assert outcome.holds is not None
            if self.in_force is not None:
                self.moving_seconds += migration_cost(built.problem, outcome.holds)
            self.in_force = outcome.holds
            self.generations += 1
        return decision

    def solve(self, built: BuiltProblem, budget: Budget = UNLIMITED) -> SolveOutcome:
        request = SolveRequest(
            built.problem,
            self.in_force,
            "sgd",
            {"bound_steps": 0},
            seed=0,
            time_limit_seconds=10.0,
            min_improvement=self.settings.min_improvement,
            budget=budget,
        )
        outcome = solve_task(request)
        halves = built.halves() if outcome.to_be_tried else None
        return outcome if halves is None else replace(outcome, trial=trial_task(request, *halves))

    def built(self) -> BuiltProblem:
        return self._problem(self._buckets)

    def _problem(self, buckets: dict[tuple[str, str], list[Bucket]]) -> BuiltProblem:
        until = self.at * self._span
        statistics = combine(buckets, {"tiny-moe": MODEL}, self.settings, until)
        holds = self.in_force if self.in_force is not None else np.zeros(self.fleet.shape, np.uint8)
        return build_problem(
            self.fleet, self.settings, statistics, holds=holds, live=self.fleet.node_ids, statuses={}
        )

    def _bucket(self, domain: str) -> Bucket:
        recorded = traces.requests(domain)
        drawn = recorded[self._rng.integers(0, len(recorded), self.requests)]
        routes = np.sort(drawn[:, :, :LAYERS].reshape(-1, LAYERS, shape.TOP_K), axis=2).astype(np.uint16)
        tokens = len(routes)
        counts = np.concatenate(
            [np.bincount(routes[:, n].ravel(), minlength=shape.EXPERTS) for n in range(LAYERS)]
        )
        seed = int(self._rng.integers(0, 2**62))
        sample = Reservoir.of(
            LAYERS,
            np.repeat(np.arange(LAYERS, dtype=np.int32), tokens),
            np.concatenate([routes[:, n] for n in range(LAYERS)]),
            np.ones(tokens * LAYERS),
            uniforms(seed, tokens * LAYERS),
        )
        start = self.at * self._span
        covered = Coverage.nothing(LAYERS)
        covered.add(start, start + self._span, tokens, None)
        return Bucket(
            "d",
            start,
            start + self._span,
            1,
            tokens,
            self._span,
            covered,
            counts.astype(np.int64),
            merge([sample], capacity_per_block(LAYERS)),
        )
