"""How many bytes a fleet lacks, and what gives it room."""

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from solvers.algorithms import solve
from solvers.feasible.shortage import shortage, unplaced
from solvers.problem import PlacementProblem


def fleet(
    capacities: list[list[int]],
    sizes: list[tuple[int, int]] = [(100, 8)],  # noqa: B006 - never changed
    *,
    origin: bool = False,
    **more: Any,
) -> PlacementProblem:
    """capacities: bytes of each device of each node. sizes: bytes and number of the experts of each block."""
    nodes = len(capacities)
    device_node = [node for node, devices in enumerate(capacities) for _ in devices]
    drained = np.zeros(nodes, np.uint8)
    drained[more.pop("out", [])] = 1
    return PlacementProblem(
        expert_bytes=np.array([size for size, _ in sizes]),
        experts_per_block=np.array([count for _, count in sizes]),
        capacity_bytes=np.array([sum(devices) for devices in capacities]),
        latency_seconds=np.ones((nodes, nodes)),
        origin_latency_seconds=np.full(nodes, 9.0 if origin else np.inf),
        route_node=np.zeros(0, np.int32),
        route_block=np.zeros(0, np.int32),
        route_experts=np.zeros((0, 1), np.int32),
        route_rate=np.zeros(0),
        drained=drained,
        device_node=np.array(device_node, np.int32),
        device_capacity_bytes=np.array([size for devices in capacities for size in devices]),
        **more,
    )


def least_bytes(problem: PlacementProblem) -> int:
    """By trying every way to give each copy a device or none: the bytes left out at least."""
    device_node, capacity = problem.devices
    drained = problem.drained if problem.drained is not None else np.zeros(problem.nodes)
    devices = [d for d in range(len(capacity)) if not drained[device_node[d]]]
    choices = []
    for _ in range(problem.experts):
        of_expert: list[tuple[int, ...]] = []
        for count in range(problem.min_replicas + 1):
            of_expert += [
                chosen
                for chosen in combinations(devices, count)
                if len({int(device_node[d]) for d in chosen}) == count
            ]
        choices.append(of_expert)
    size: list[int] = problem.column_bytes.tolist()
    wanted = problem.min_replicas * sum(size)
    best = 0
    for way in product(*choices):
        used = dict.fromkeys(devices, 0)
        for column, chosen in enumerate(way):
            for device in chosen:
                used[device] += size[column]
        if all(used[d] <= capacity[d] for d in devices):
            best = max(best, sum(used.values()))
    return wanted - best


@pytest.mark.parametrize(
    ("problem", "copies", "bytes_", "nodes"),
    [
        (fleet([[400], [400]]), 0, 0, 0),
        (fleet([[400], [400], [400]], out=[2]), 0, 0, 0),
        (fleet([[400], [300], [100]], out=[2]), 1, 100, 1),
        # 450 bytes in two devices of 225 hold 4 experts of 100, not 4.5
        (fleet([[225, 225], [299]]), 2, 200, 1),
        # an expert larger than any device: none of them has a place
        (fleet([[90, 90], [80]]), 8, 800, 1),
        # one node holds each expert once, whatever its memory
        (fleet([[5000]], min_replicas=2), 8, 800, 1),
        (fleet([[5000]], min_replicas=3), 16, 1600, 2),
        (fleet([[800], [300]], min_replicas=2), 5, 500, 1),
        (fleet([[400], [400]], min_replicas=0, origin=True), 0, 0, 0),
        (fleet([[800]], out=[0]), 8, 800, 1),
        # two sizes: 300 and 2 of 200 in devices of 400 and 300
        (fleet([[400], [300]], [(300, 1), (200, 2)]), 0, 0, 0),
        (fleet([[350], [350]], [(300, 1), (200, 2)]), 1, 200, 1),
    ],
)
def test_bytes_without_a_place(problem: PlacementProblem, copies: int, bytes_: int, nodes: int) -> None:
    """Whole experts on devices are counted, each once per node, not bytes of nodes."""
    found = unplaced(problem)
    assert found is not None
    assert (found.copies, found.bytes, found.nodes, found.proved) == (copies, bytes_, nodes, True)


@pytest.mark.parametrize("seed", range(12))
def test_bytes_without_a_place_are_the_least_there_are(seed: int) -> None:
    """On small random fleets no way of giving copies to devices leaves fewer bytes without a place."""
    generator = np.random.default_rng(seed)
    nodes = int(generator.integers(1, 4))
    capacities = [generator.integers(0, 60, int(generator.integers(1, 3))).tolist() for _ in range(nodes)]
    sizes = [(int(size), int(generator.integers(1, 3))) for size in generator.integers(10, 40, 2)]
    problem = fleet(
        capacities, sizes, min_replicas=int(generator.integers(1, 3)), out=[0] if seed % 4 == 0 else []
    )
    found = unplaced(problem)
    assert found is not None
    assert found.bytes == least_bytes(problem)


@pytest.mark.parametrize(
    "problem",
    [
        fleet([[400], [300]]),
        fleet([[225, 225], [299]]),
        fleet([[90, 90], [80]]),
        fleet([[350], [350]], [(300, 1), (200, 2)]),
        fleet([[400], [400], [400]], out=[1, 2]),
        fleet([[5000]], min_replicas=2),
        fleet([[500], [900]], [(70, 3), (110, 4)], min_replicas=2),
    ],
)
def test_adding_the_bytes_gives_a_placement(problem: PlacementProblem) -> None:
    """Another node with the memory that is said to lack makes a solve succeed; with one byte less it does
    not."""

    def with_node(memory: int) -> PlacementProblem:
        node, capacity = problem.devices
        drained = [] if problem.drained is None else problem.drained.tolist()
        return PlacementProblem(
            expert_bytes=problem.expert_bytes,
            experts_per_block=problem.experts_per_block,
            capacity_bytes=np.append(problem.capacity_bytes, memory),
            latency_seconds=np.ones((problem.nodes + 1, problem.nodes + 1)),
            origin_latency_seconds=np.full(problem.nodes + 1, np.inf),
            route_node=problem.route_node,
            route_block=problem.route_block,
            route_experts=problem.route_experts,
            route_rate=problem.route_rate,
            min_replicas=problem.min_replicas,
            drained=np.array([*drained, 0]),
            device_node=np.append(node, np.int32(problem.nodes)),
            device_capacity_bytes=np.append(capacity, memory),
        )

    lack = unplaced(problem)
    assert lack is not None
    assert lack.nodes == 1
    assert solve(problem, "greedy").placement is None
    assert solve(with_node(lack.bytes), "greedy").placement is not None
    assert solve(with_node(lack.bytes - 1), "greedy").placement is None


def test_a_feasible_fleet_lacks_nothing() -> None:
    """No shortage where a placement exists."""
    assert shortage(fleet([[400], [400]])) is None
    assert shortage(fleet([[100]], min_replicas=0, origin=True)) is None


def test_every_node_whose_return_gives_room_is_named() -> None:
    """Of the nodes that are out, those that make room alone; one too small is not among them."""
    found = shortage(fleet([[400], [400], [300], [500]], out=[1, 2, 3]))
    assert found is not None
    assert found.blocked == (1, 2, 3)
    assert found.returning == ((1,), (3,))
    assert found.still_unplaced is None


def test_nodes_that_make_room_only_together_are_one_remedy() -> None:
    """The fewest of them, the roomiest first."""
    found = shortage(fleet([[300], [200], [300], [100]], out=[1, 2, 3]))
    assert found is not None
    assert found.returning == ((1, 2),)


def test_nodes_whose_return_is_not_enough_are_no_remedy() -> None:
    """What would still find no place is counted."""
    found = shortage(fleet([[300], [200]], out=[1]))
    assert found is not None
    assert found.returning == ()
    assert found.still_unplaced is not None
    assert (found.unplaced and found.unplaced.bytes, found.still_unplaced.bytes) == (500, 300)


def test_fewer_replicas_that_fit_are_a_remedy() -> None:
    """The most that there is room for."""
    found = shortage(fleet([[800], [800], [100]], min_replicas=3))
    assert found is not None
    assert found.replicas == 2
    alone = shortage(fleet([[700]], min_replicas=2))
    assert alone is not None
    assert alone.replicas is None


def test_pins_on_a_lost_node_have_no_number_of_bytes() -> None:
    """What is pinned to a node that is out cannot be placed by more memory."""
    pins = np.zeros((2, 8), np.int8)
    pins[1, 0] = 1
    found = shortage(fleet([[800], [800]], out=[1], pins=pins))
    assert found is not None
    assert found.returning == ((1,),)


def test_pins_take_their_memory_first() -> None:
    """Experts pinned to two nodes leave less room for the others."""
    pins = np.zeros((2, 8), np.int8)
    pins[:, :2] = 1
    found = unplaced(fleet([[400], [400]], pins=pins))
    assert found is not None
    assert (found.copies, found.bytes) == (2, 200)
