"""Migrations to plan: between placements of random fleets, of fleets with real routing, and of regions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.quality.instances import EXPERT_BYTES, instance
from benchmarks.quality.traces import Trace
from benchmarks.region.instances import region_problem
from solvers.algorithms import solve
from solvers.problem import Coupling, Float64, Int64, PlacementProblem, UInt8

REGIONS = (300, 1000)  # nodes
REGION_TRACE = "deepseek-v2-lite"
REGION_DRIFT = 0.1  # sigma of the log-normal factor on what each node calls
REGION_SHARE = 0.1  # of what drift would change, the part that matters most is moved

GIGABIT = 125e6
"""Bytes per second; links have one, two or four."""


@dataclass(frozen=True, eq=False)
class Migration:
    """A problem and the two placements to go between, uint8[N, E] each."""

    name: str
    problem: PlacementProblem
    source: UInt8
    target: UInt8

    @property
    def copies(self) -> int:
        return int(((self.target == 1) & (self.source == 0)).sum())


@dataclass(frozen=True)
class Fleet:
    """A random fleet: `memory` is what all nodes hold together, in models; `fill` the share of it in use.

    drift: the share of each node's popularity that another node's takes over in between.
    """

    nodes: int
    blocks: int
    experts: int
    memory: float
    fill: float
    origin: bool
    equal: bool = True
    drift: float = 1.0
    seed: int = 0

    def __str__(self) -> str:
        kind = "one size" if self.equal else "sizes 1:10"
        where = "origin" if self.origin else "no origin"
        return f"{self.memory:g} models, {self.fill:.0%} full, {kind}, {where}, drift {self.drift:g}"


FLEETS = (
    Fleet(8, 6, 32, 1.5, 0.8, origin=False, drift=0.3),
    Fleet(8, 12, 32, 1.2, 1.0, origin=False),
    Fleet(8, 24, 32, 1.05, 1.0, origin=False),
    Fleet(8, 24, 32, 1.1, 0.98, origin=False),
    Fleet(8, 24, 32, 1.5, 0.9, origin=True),
    Fleet(8, 24, 32, 2.0, 1.0, origin=False, equal=False),
    Fleet(16, 24, 64, 2.0, 1.0, origin=False),
    Fleet(16, 24, 64, 1.2, 0.95, origin=True),
    Fleet(16, 24, 32, 1.5, 0.95, origin=False, equal=False),
    Fleet(16, 24, 64, 4.0, 1.0, origin=True, drift=0.3),
    Fleet(32, 24, 64, 3.0, 0.9, origin=False),
    Fleet(32, 24, 32, 2.0, 1.0, origin=True, equal=False),
    Fleet(32, 24, 64, 1.1, 1.0, origin=False),
    Fleet(64, 12, 32, 2.0, 0.95, origin=False, drift=0.1),
    Fleet(64, 24, 64, 4.0, 1.0, origin=False),
    Fleet(64, 40, 64, 4.0, 0.95, origin=False),
)


def random_migrations() -> Iterator[Migration]:
    """One migration per fleet of `FLEETS`: every node holds what is popular there, and popularity drifts."""
    for fleet in FLEETS:
        yield random_migration(fleet)


def random_migration(fleet: Fleet) -> Migration:
    """Popularity of experts falls as 1 / rank, in an order of each node's own; routes are top-2 pairs."""
    rng = np.random.default_rng([fleet.seed, fleet.nodes, fleet.blocks, fleet.experts])
    nodes, columns = fleet.nodes, fleet.blocks * fleet.experts
    sizes = np.full(fleet.blocks, EXPERT_BYTES)
    if not fleet.equal:
        sizes = (EXPERT_BYTES * 10.0 ** rng.uniform(-0.5, 0.5, fleet.blocks)).astype(np.int64)
    shape = (nodes, fleet.blocks, fleet.experts)
    before = 1.0 / (1 + np.argsort(rng.random(shape), axis=2))
    after = (1 - fleet.drift) * before + fleet.drift * np.roll(before, 1, axis=0)
    share = rng.uniform(0.7, 1.3, nodes)
    share *= fleet.memory / share.sum()
    column_bytes = np.repeat(sizes, fleet.experts)
    capacity = np.ceil(share * column_bytes.sum()).astype(np.int64)
    latency = rng.uniform(3e-3, 15e-3, (nodes, nodes))
    np.fill_diagonal(latency, 1e-3)
    links = rng.choice([1.0, 2.0, 4.0], (2, nodes)) * GIGABIT
    pairs = 40
    routes = nodes * fleet.blocks * pairs
    where = np.repeat(np.arange(nodes * fleet.blocks), pairs)
    chosen = np.log(after.reshape(-1, fleet.experts))[where] + rng.gumbel(size=(routes, fleet.experts))
    problem = PlacementProblem(
        expert_bytes=sizes,
        experts_per_block=np.full(fleet.blocks, fleet.experts),
        capacity_bytes=capacity,
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, 50e-3 if fleet.origin else np.inf),
        route_node=(where // fleet.blocks).astype(np.int32),
        route_block=(where % fleet.blocks).astype(np.int32),
        route_experts=np.argsort(-chosen, axis=1)[:, :2].astype(np.int32),
        route_rate=np.full(routes, 1.0 / pairs),
        min_replicas=0 if fleet.origin else 1,
        ingress_bytes_per_second=links[0],
        egress_bytes_per_second=links[1],
        origin_egress_bytes_per_second=16 * GIGABIT if fleet.origin else None,
    )
    free = (capacity * fleet.fill).astype(np.int64)
    slots = rng.random((nodes, columns))
    source, target = (
        _popular(popularity.reshape(nodes, columns), column_bytes, free, capacity, slots, fleet.origin)
        for popularity in (before, after)
    )
    return Migration(f"random: {fleet}", problem, source, target)


SLOWEST_LINK, FASTEST_LINK = 1e3, 1e9
"""Bytes per second, of fleets with unlike links."""

UNLIKE = (
    Fleet(3, 2, 4, 2.0, 0.8, origin=True, drift=0.3),
    Fleet(6, 4, 8, 1.5, 0.9, origin=True, equal=False),
    Fleet(6, 4, 8, 1.2, 1.0, origin=True),
    Fleet(6, 4, 8, 2.0, 0.8, origin=True),
    Fleet(6, 4, 8, 2.0, 1.0, origin=False),
    Fleet(12, 6, 16, 1.5, 0.9, origin=True),
    Fleet(12, 6, 16, 2.0, 1.0, origin=False, equal=False),
    Fleet(24, 12, 32, 2.0, 0.95, origin=False),
    Fleet(48, 12, 32, 3.0, 0.9, origin=True, equal=False),
    *FLEETS,
)
"""Fleets whose links are made unlike: some small ones, sizes between, and all the others."""


def unlike_migrations() -> Iterator[Migration]:
    """The fleets of `UNLIKE`, over links of 1 kB/s to 1 GB/s, two seeds each up to 16 nodes."""
    for fleet in UNLIKE:
        for seed in range(2 if fleet.nodes <= 16 else 1):
            yield unlike_migration(fleet, seed)


def unlike_migration(fleet: Fleet, seed: int = 0) -> Migration:
    """The fleet's migration, where every ingress, every egress and the origin's is drawn log-uniformly."""
    migration = random_migration(fleet)
    rng = np.random.default_rng([seed, 77, fleet.nodes])
    ingress, egress = (_unlike(rng, fleet.nodes) for _ in range(2))
    problem = migration.problem.replace(
        ingress_bytes_per_second=ingress,
        egress_bytes_per_second=egress,
        origin_egress_bytes_per_second=float(_unlike(rng, 1)[0]) if fleet.origin else None,
    )
    name = migration.name.replace("random", "unlike links")
    return Migration(name, problem, migration.source, migration.target)


def _unlike(rng: np.random.Generator, links: int) -> Float64:
    low, high = np.log10([SLOWEST_LINK, FASTEST_LINK])
    return np.asarray(10.0 ** rng.uniform(low, high, links))


def _popular(
    popularity: Float64, size: Int64, free: Int64, capacity: Int64, tie: Float64, origin: bool
) -> UInt8:
    """Each node holds what is most popular there; without an origin, first one copy of every expert goes,
    the largest ones before, to the node with room where it is most popular."""
    holds = np.zeros(popularity.shape, np.uint8)
    left = free.copy()
    rank = popularity + 1e-9 * tie
    if not origin:
        for column in np.lexsort((-popularity.max(axis=0), -size)).tolist():
            room = left >= size[column]
            if not room.any():
                room, left = np.ones(len(left), bool), left + (capacity - free)
                free = capacity
                room = left >= size[column]
            node = int(np.argmax(np.where(room, rank[:, column], -1.0)))
            holds[node, column] = 1
            left[node] -= size[column]
    for node in range(len(holds)):
        for column in np.argsort(-rank[node] / size, kind="stable").tolist():
            if not holds[node, column] and size[column] <= left[node]:
                holds[node, column] = 1
                left[node] -= size[column]
    return holds


def real_migrations(traces: list[Trace]) -> Iterator[Migration]:
    """Fleets of nodes with the traffic of real models: each takes over its neighbour's tokens."""
    for trace in traces:
        for nodes, memory, origin, coupling in (
            (8, 0.25, False, Coupling.SLOWEST),
            (8, 0.3, True, Coupling.SUM),
            (16, 0.3, False, Coupling.SLOWEST),
            (32, 0.3, True, Coupling.SLOWEST),
        ):
            yield real_migration(trace, nodes, coupling, memory=memory, origin=origin)


def real_migration(trace: Trace, nodes: int, coupling: Coupling, *, memory: float, origin: bool) -> Migration:
    problem = instance(trace, nodes, coupling, memory=memory, origin=origin)
    rng = np.random.default_rng(nodes)
    links: npt.NDArray[np.float64] = rng.choice([1.0, 2.0, 4.0], (2, nodes)) * GIGABIT
    problem = problem.replace(
        ingress_bytes_per_second=links[0],
        egress_bytes_per_second=links[1],
        origin_egress_bytes_per_second=16 * GIGABIT if origin else None,
    )
    before = problem.replace(route_node=((problem.route_node + 1) % nodes).astype(np.int32))
    placements = []
    for one in (before, problem):
        found = solve(one, "sgd", params={"bound_steps": 0, "rounds": 2}).placement
        if found is None:
            raise RuntimeError(f"{trace.name}: no placement on {nodes} nodes")
        placements.append(found.holds)
    where = "origin" if origin else "no origin"
    return Migration(f"{trace.name}: {coupling}, {where}", problem, placements[0], placements[1])


def region_migrations(traces: list[Trace]) -> Iterator[Migration]:
    """Regions of up to 1,000 nodes, where the trace of their routing is present."""
    for trace in traces:
        if trace.name == REGION_TRACE:
            for nodes in REGIONS:
                yield region_migration(trace, nodes)


def region_migration(trace: Trace, nodes: int) -> Migration:
    """Every node is full of what it calls most; after a mild drift it swaps what it calls least now for what
    it calls most of the rest."""
    problem = region_problem(trace, nodes, Coupling.SLOWEST)
    rng = np.random.default_rng(nodes)
    links = rng.choice([1.0, 2.0, 4.0], (2, nodes)) * GIGABIT
    problem = problem.replace(
        ingress_bytes_per_second=links[0],
        egress_bytes_per_second=links[1],
        origin_egress_bytes_per_second=16 * GIGABIT,
    )
    called = problem.block_offset[problem.route_block][:, None] + problem.route_experts
    use = problem.route_node[:, None].astype(np.int64) * problem.experts + called
    shape = (nodes, problem.experts)
    rate = np.repeat(problem.route_rate, called.shape[1])
    calls = np.bincount(use.ravel(), rate, nodes * problem.experts).reshape(shape)
    before = calls + 1e-9 * rng.random(shape)
    after = before * rng.lognormal(0.0, REGION_DRIFT, shape)
    source = np.zeros(shape, np.uint8)
    target = np.zeros(shape, np.uint8)
    for node, slots in enumerate((problem.capacity_bytes // problem.expert_bytes[0]).tolist()):
        held, wanted = (set(np.argsort(-rank[node])[:slots].tolist()) for rank in (before, after))
        swaps = int(REGION_SHARE * len(wanted - held))
        comes = sorted(wanted - held, key=lambda column: -after[node, column])[:swaps]
        goes = sorted(held - wanted, key=lambda column: after[node, column])[:swaps]
        source[node, list(held)] = 1
        target[node, list((held | set(comes)) - set(goes))] = 1
    return Migration("region: 58 blocks of 256 experts, origin, mild drift", problem, source, target)
