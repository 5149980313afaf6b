"""How the fleet does under what its nodes hold now, per node and layer."""

from datetime import datetime

import numpy as np

from app.analysis.packed import PackedLayer
from app.analysis.schemas import (
    Analysis,
    AnalysisOverview,
    CountsDoubt,
    FleetFigures,
    LayerAnalysis,
    LayerFigures,
    NodeAnalysis,
    NodeFigures,
    TopExpert,
)
from app.observe.observation import Observation
from app.solver_process.tasks import AnalysisOutcome
from app.statistics.plausibility import by_node
from app.statistics.problem import BuiltProblem
from solvers.problem import Float64, UInt8

TOP_EXPERTS = 8
"""Listed for each layer of each node."""


def compose_analysis(
    observation: Observation, built: BuiltProblem, outcome: AnalysisOutcome, now: datetime
) -> Analysis:
    """CPU-bound, O(N E log E): call it in a thread."""
    fleet, problem = built.fleet, built.problem
    parts = outcome.breakdown
    calls = _calls_per_block(built, outcome.calls)
    used = observation.held.astype(np.int64) @ problem.column_bytes
    tokens = built.node_tokens_per_second
    # Seconds of latency per second of traffic, per node: what a token of it pays over all layers.
    latency = (parts.rate * parts.latency_seconds).sum(axis=1)
    doubts = by_node(built.doubts)
    nodes = []
    for row, node_id in enumerate(fleet.node_ids):
        total = float(calls[row].sum())
        nodes.append(
            NodeAnalysis(
                node_id=node_id,
                live=node_id in observation.live,
                capacity_bytes=int(problem.capacity_bytes[row]),
                used_bytes=int(used[row]),
                tokens_per_second=float(tokens[row]),
                local_hit_ratio=_ratio(parts.local_hit_ratio[row] @ calls[row], total),
                peer_ratio=_ratio(parts.remote_ratio[row] @ calls[row], total),
                origin_ratio=_ratio(parts.origin_ratio[row] @ calls[row], total),
                unserved_ratio=_ratio(parts.unserved_ratio[row] @ calls[row], total),
                mean_latency_seconds=_ratio(latency[row], tokens[row]),
                served_per_second=float(outcome.served[row]),
                counts_ratio=_finite(float(built.counts_ratio[row])),
                doubts=[
                    CountsDoubt(
                        model_id=doubt.model_id, fault=doubt.fault, ratio=doubt.ratio, reason=doubt.reason
                    )
                    for doubt in doubts.get(node_id, ())
                ],
                layers=_layers(observation, built, outcome, calls, row),
            )
        )
    everything = float(calls.sum())
    served = outcome.served[observation.live_mask]
    busiest = float(served.max()) if len(served) else 0.0
    in_force = observation.in_force
    return Analysis(
        cluster_uid=observation.cluster.uid,
        generation=None if in_force is None else in_force.generation,
        created_at=now,
        telemetry_until=built.telemetry_until,
        objective=_finite(outcome.objective),
        desired_objective=_finite(outcome.desired_objective),
        mean_latency_seconds=_ratio(outcome.objective, built.tokens_per_second),
        local_hit_ratio=_ratio(float((parts.local_hit_ratio * calls).sum()), everything),
        balancedness=float(served.mean()) / busiest if busiest > 0 else None,
        nodes=nodes,
    )


def compose_overview(
    analysis: Analysis, built: BuiltProblem, outcome: AnalysisOutcome, held: UInt8
) -> AnalysisOverview:
    """What `analysis` says of nodes, and the same of layers; CPU-bound, O(N E)."""
    fleet, parts = built.fleet, outcome.breakdown
    calls = _calls_per_block(built, outcome.calls)
    copies = np.bincount(
        built.problem.column_block, held.sum(axis=0, dtype=np.int64), minlength=len(fleet.blocks)
    )
    paid = np.where(parts.rate > 0, parts.rate * parts.latency_seconds, 0.0)
    layers = []
    for block, (model_id, layer) in enumerate(fleet.blocks):
        here = calls[:, block]
        total = float(here.sum())
        layers.append(
            LayerFigures(
                model_id=model_id,
                layer=layer,
                experts=int(fleet.experts_per_block[block]),
                activations_per_second=total,
                local_hit_ratio=_ratio(float(parts.local_hit_ratio[:, block] @ here), total),
                peer_ratio=_ratio(float(parts.remote_ratio[:, block] @ here), total),
                origin_ratio=_ratio(float(parts.origin_ratio[:, block] @ here), total),
                unserved_ratio=_ratio(float(parts.unserved_ratio[:, block] @ here), total),
                latency_seconds=_ratio(paid[:, block].sum(), parts.rate[:, block].sum()),
                copies=int(copies[block]),
            )
        )
    fleet_figures = {name: getattr(analysis, name) for name in FleetFigures.model_fields}
    nodes = [
        NodeFigures(**{name: getattr(node, name) for name in NodeFigures.model_fields})
        for node in analysis.nodes
    ]
    return AnalysisOverview(**fleet_figures, nodes=nodes, layers=layers)


def pack_layer(
    observation: Observation, built: BuiltProblem, outcome: AnalysisOutcome, now: datetime, block: int
) -> PackedLayer:
    """One block, expert by expert and node by node; O(N E of the block)."""
    fleet, in_force = built.fleet, observation.in_force
    model_id, layer = fleet.blocks[block]
    columns = slice(int(fleet.block_offset[block]), int(fleet.block_offset[block + 1]))
    held = observation.held[:, columns]
    return PackedLayer.of(
        cluster_uid=observation.cluster.uid,
        generation=None if in_force is None else in_force.generation,
        created_at=now,
        telemetry_until=built.telemetry_until,
        model_id=model_id,
        layer=layer,
        node_ids=list(fleet.node_ids),
        live=observation.live_mask.tolist(),
        calls=outcome.calls[:, columns],
        held=held,
        desired=np.zeros_like(held) if in_force is None else in_force.holds[:, columns],
    )


def _layers(
    observation: Observation, built: BuiltProblem, outcome: AnalysisOutcome, calls: Float64, row: int
) -> list[LayerAnalysis]:
    fleet, parts = built.fleet, outcome.breakdown
    offsets = fleet.block_offset.tolist()
    layers = []
    for block, (model_id, layer) in enumerate(fleet.blocks):
        rate = float(calls[row, block])
        start, end = offsets[block], offsets[block + 1]
        held = observation.held[row, start:end]
        active = rate > 0
        layers.append(
            LayerAnalysis(
                model_id=model_id,
                layer=layer,
                activations_per_second=rate,
                local_hit_ratio=float(parts.local_hit_ratio[row, block]) if active else None,
                peer_ratio=float(parts.remote_ratio[row, block]) if active else None,
                origin_ratio=float(parts.origin_ratio[row, block]) if active else None,
                unserved_ratio=float(parts.unserved_ratio[row, block]) if active else None,
                latency_seconds=_finite(float(parts.latency_seconds[row, block])) if active else None,
                held_count=int(held.sum()),
                top_experts=_top(outcome.calls[row, start:end], held, rate) if active else [],
            )
        )
    return layers


def _top(calls: Float64, held: "np.ndarray[tuple[int], np.dtype[np.uint8]]", rate: float) -> list[TopExpert]:
    order = np.argsort(-calls, kind="stable")[:TOP_EXPERTS]
    return [
        TopExpert(expert=expert, share=float(calls[expert]) / rate, held=bool(held[expert]))
        for expert in order.tolist()
        if calls[expert] > 0
    ]


def _calls_per_block(built: BuiltProblem, calls: Float64) -> Float64:
    """float64[N, B]"""
    blocks = len(built.fleet.blocks)
    summed = np.zeros((calls.shape[0], blocks))
    for row in range(calls.shape[0]):
        summed[row] = np.bincount(built.problem.column_block, calls[row], minlength=blocks)[:blocks]
    return summed


def _ratio(part: float, whole: float) -> float | None:
    return _finite(float(part) / float(whole)) if whole > 0 else None


def _finite(value: float | None) -> float | None:
    """Infinite where traffic has nobody to serve it: JSON has no such number."""
    return value if value is not None and np.isfinite(value) else None
