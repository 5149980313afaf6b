"""Random problems with two placements to migrate between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from solvers.feasible.packing import pack
from solvers.problem import Int64, PlacementProblem, UInt8


@dataclass(frozen=True)
class Change:
    problem: PlacementProblem
    source: UInt8
    target: UInt8


def cluster(
    capacity: list[int],
    source: list[list[int]],
    target: list[list[int]],
    *,
    sizes: list[int] | None = None,
    origin: bool = False,
    min_replicas: int = 1,
    bandwidth: float = 10.0,
) -> Change:
    """A hand-made cluster: one expert per block, `sizes` bytes each (10 unless told), equal links."""
    nodes, experts = len(capacity), len(source[0])
    latency = np.full((nodes, nodes), 0.01)
    np.fill_diagonal(latency, 0.001)
    problem = PlacementProblem(
        expert_bytes=np.array(sizes or [10] * experts),
        experts_per_block=np.ones(experts, np.int64),
        capacity_bytes=np.array(capacity),
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, 0.5 if origin else np.inf),
        route_node=np.zeros(experts, np.int32),
        route_block=np.arange(experts, dtype=np.int32),
        route_experts=np.zeros((experts, 1), np.int32),
        route_rate=np.ones(experts),
        min_replicas=min_replicas,
        ingress_bytes_per_second=np.full(nodes, bandwidth),
        egress_bytes_per_second=np.full(nodes, bandwidth),
        origin_egress_bytes_per_second=4 * bandwidth if origin else None,
    )
    return Change(problem, np.array(source, np.uint8), np.array(target, np.uint8))


def unlike_links(change: Change, rng: np.random.Generator) -> Change:
    """The same change where each link, and that of the origin, has 1 kB/s to 1 GB/s, in bytes of the expert
    sizes of these instances: 1 to 10 ** 6 a second."""
    problem = change.problem
    ingress, egress = 10.0 ** rng.uniform(0.0, 6.0, (2, problem.nodes))
    return Change(
        problem.replace(
            ingress_bytes_per_second=ingress,
            egress_bytes_per_second=egress,
            origin_egress_bytes_per_second=float(10.0 ** rng.uniform(0.0, 6.0))
            if problem.has_origin
            else None,
        ),
        change.source,
        change.target,
    )


def random_change(
    rng: np.random.Generator,
    *,
    nodes: int,
    blocks: int,
    experts: int,
    copies: float,
    fill: float,
    origin: bool,
    min_replicas: int,
    equal_sizes: bool,
    devices: int = 1,
) -> Change | None:
    """Two random placements that fill up to `fill` of a memory of `copies` times all experts; None where a
    random placement did not fit."""
    sizes = np.full(blocks, 100) if equal_sizes else rng.integers(20, 200, blocks)
    share = rng.uniform(0.7, 1.3, nodes)
    total = float(sizes.sum()) * experts * copies
    per_device = np.maximum(total * share / share.sum() / devices, sizes.max()).astype(np.int64)
    links = rng.choice([50.0, 100.0, 200.0], (2, nodes))
    routes = 40
    problem = PlacementProblem(
        expert_bytes=sizes,
        experts_per_block=np.full(blocks, experts),
        capacity_bytes=per_device * devices,
        latency_seconds=rng.uniform(0.001, 0.05, (nodes, nodes)),
        origin_latency_seconds=np.full(nodes, 0.2 if origin else np.inf),
        route_node=rng.integers(nodes, size=routes, dtype=np.int32),
        route_block=rng.integers(blocks, size=routes, dtype=np.int32),
        route_experts=rng.integers(experts, size=(routes, 1), dtype=np.int32),
        route_rate=rng.pareto(1.5, routes) + 0.01,
        min_replicas=min_replicas,
        ingress_bytes_per_second=links[0],
        egress_bytes_per_second=links[1],
        origin_egress_bytes_per_second=100.0 if origin else None,
        device_node=np.repeat(np.arange(nodes, dtype=np.int32), devices),
        device_capacity_bytes=np.repeat(per_device, devices),
    )
    source, target = (_placement(rng, problem, copies, fill) for _ in range(2))
    return None if source is None or target is None else Change(problem, source, target)


def _placement(
    rng: np.random.Generator, problem: PlacementProblem, copies: float, fill: float
) -> UInt8 | None:
    holds = np.zeros((problem.nodes, problem.experts), np.uint8)
    free: Int64 = (problem.capacity_bytes * fill).astype(np.int64)
    size = problem.column_bytes
    once = rng.permutation(problem.experts)
    once = once[np.argsort(-size[once], kind="stable")]
    more = rng.integers(problem.experts, size=int(2 * problem.experts * copies))
    for position, column in enumerate(np.concatenate([once, more]).tolist()):
        places = [n for n in range(problem.nodes) if _fits(problem, holds, n, column, int(free[n]))]
        if places:
            node = int(rng.choice(places))
            holds[node, column] = 1
            free[node] -= size[column]
        elif position < problem.experts:
            return None
    return holds


def _fits(problem: PlacementProblem, holds: UInt8, node: int, column: int, free: int) -> bool:
    if free < problem.column_bytes[column] or holds[node, column]:
        return False
    if len(problem.devices[0]) == problem.nodes:
        return True
    columns = np.append(np.flatnonzero(holds[node]), column).astype(np.int64)
    return pack(problem, node, columns) is not None


@st.composite
def changes(draw: st.DrawFn, max_nodes: int = 6) -> Change:
    """Small random changes of every kind: sizes, fill, origin, replicas, devices."""
    origin = draw(st.booleans())
    made: Change | None = None
    fill, copies = draw(st.sampled_from([0.8, 0.9, 1.0])), draw(st.sampled_from([1.1, 1.5, 2.0]))
    while made is None:
        made = random_change(
            np.random.default_rng(draw(st.integers(0, 2**32))),
            nodes=draw(st.integers(2, max_nodes)),
            blocks=draw(st.integers(1, 3)),
            experts=draw(st.integers(2, 8)),
            copies=copies,
            fill=fill,
            origin=origin,
            min_replicas=draw(st.integers(0 if origin else 1, 2)),
            equal_sizes=draw(st.booleans()),
            devices=draw(st.sampled_from([1, 1, 2, 3])),
        )
        copies += 0.5
    return made
