"""What a problem refuses, in one line that names the key and the index."""

from typing import Any

import numpy as np
import pytest

from solvers.placement import Placement
from solvers.problem import Coupling, PlacementProblem, ProblemError

GOOD: dict[str, Any] = {
    "expert_bytes": [2, 3],
    "experts_per_block": [2, 1],
    "capacity_bytes": [4, 7],
    "latency_seconds": [[1.0, 2.0], [2.0, 1.0]],
    "origin_latency_seconds": [9.0, np.inf],
    "route_node": [0, 1],
    "route_block": [0, 1],
    "route_experts": [[0, 1], [0, -1]],
    "route_rate": [1.0, 0.5],
}


def test_derived_columns() -> None:
    """Offsets, blocks and bytes of the columns follow from the blocks."""
    problem = PlacementProblem(**GOOD)
    assert (problem.nodes, problem.blocks, problem.experts, problem.routes) == (2, 2, 3, 2)
    assert problem.block_offset.tolist() == [0, 2, 3]
    assert problem.column_block.tolist() == [0, 0, 1]
    assert problem.column_bytes.tolist() == [2, 2, 3]
    assert not problem.has_origin
    assert problem.coupling is Coupling.SLOWEST
    assert [part.tolist() for part in problem.devices] == [[0, 1], [4, 7]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expert_bytes": [2, 0]}, "expert_bytes[1]: is 0, expected at least 1"),
        ({"expert_bytes": [2.5, 1]}, "expert_bytes: has type float64, expected whole numbers"),
        ({"expert_bytes": [[2, 3]]}, "expert_bytes: has 2 dimensions, expected 1"),
        (
            {"expert_bytes": [2**61, 2**61]},
            "expert_bytes: all experts together must be less than 2**62 bytes",
        ),
        ({"expert_bytes": "many"}, "expert_bytes: has 0 dimensions, expected 1"),
        ({"expert_bytes": None}, "expert_bytes: has 0 dimensions, expected 1"),
        ({"experts_per_block": [2]}, "experts_per_block: has shape (1,), expected (2,)"),
        ({"experts_per_block": [2, -1]}, "experts_per_block[1]: is -1, expected at least 0"),
        ({"capacity_bytes": []}, "capacity_bytes: expected at least one node"),
        ({"capacity_bytes": [4, -7]}, "capacity_bytes[1]: is -7, expected at least 0"),
        ({"latency_seconds": [[1.0, 2.0]]}, "latency_seconds: has shape (1, 2), expected (2, 2)"),
        ({"latency_seconds": [[1.0, np.nan], [2.0, 1.0]]}, "latency_seconds[0,1]: is nan"),
        ({"latency_seconds": [[1.0, 2.0], [2.0, np.inf]]}, "latency_seconds[1,1]: is inf"),
        ({"latency_seconds": [[1.0, -2.0], [2.0, 1.0]]}, "latency_seconds[0,1]: is -2.0"),
        ({"origin_latency_seconds": [np.nan, 1.0]}, "origin_latency_seconds[0]: is nan"),
        ({"route_node": [0, 2]}, "route_node[1]: is 2, expected a node in 0..1"),
        ({"route_node": [0]}, "route_node: has shape (1,), expected (2,)"),
        ({"route_node": [0, 2**33]}, "route_node[1]: is 8589934592, expected a number in"),
        ({"route_block": [-1, 1]}, "route_block[0]: is -1, expected a block in 0..1"),
        ({"route_experts": [[0, 2], [0, -1]]}, "route_experts[0,1]: is 2, expected an expert of block 0"),
        ({"route_experts": [[0, 0], [0, -1]]}, "route_experts[0]: expert 0 twice"),
        ({"route_experts": [[0, 1], [-1, -1]]}, "route_experts[1]: expected at least one expert"),
        (
            {"route_experts": [[0, 1], [0, 1]]},
            "route_experts[1,1]: is 1, expected an expert of block 1 in 0..0",
        ),
        ({"route_experts": [[0, 1]]}, "route_experts: has shape (1, 2), expected (2, Kmax)"),
        ({"route_experts": [[0, 1], [0]]}, "route_experts: not an array of numbers"),
        ({"route_rate": [1.0, -0.5]}, "route_rate[1]: is -0.5, expected a finite rate of at least 0"),
        ({"route_rate": [np.inf, 0.5]}, "route_rate[0]: is inf"),
        ({"coupling": "fastest"}, "coupling: is 'fastest', expected one of sum, slowest, colocated"),
        ({"min_replicas": 0}, "min_replicas: is 0, expected at least 1 since node 1 has no origin"),
        ({"min_replicas": 1.5}, "min_replicas: is 1.5, expected a whole number of at least 0"),
        ({"min_replicas": True}, "min_replicas: is True"),
        ({"horizon_seconds": 0.0}, "horizon_seconds: is 0.0, expected a finite number above 0"),
        ({"horizon_seconds": "long"}, "horizon_seconds: is 'long', expected a number"),
        ({"current": [[1, 0, 0]]}, "current: has shape (1, 3), expected (2, 3)"),
        ({"current": [[1, 0, 0], [0, 2, 0]]}, "current[1,1]: is 2, expected 0 or 1"),
        ({"pins": [[1, 0, 0], [0, -2, 0]]}, "pins[1,1]: is -2, expected -1, 0 or 1"),
        ({"drained": [0, 1, 0]}, "drained: has shape (3,), expected (2,)"),
        ({"ingress_bytes_per_second": [1.0, 0.0]}, "ingress_bytes_per_second[1]: is 0.0"),
        ({"device_node": [0, 1]}, "device_capacity_bytes: absent"),
        (
            {"device_node": [0, 1, 1], "device_capacity_bytes": [4, 3, 3]},
            "capacity_bytes[1]: is 7, expected the sum of its devices, 6",
        ),
        (
            {"device_node": [0, 2], "device_capacity_bytes": [4, 7]},
            "device_node[1]: is 2, expected a node in 0..1",
        ),
        ({"color": "red"}, "color: not a key of a problem"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    """Each fault is refused with its key and index."""
    with pytest.raises(ProblemError) as caught:
        PlacementProblem(**GOOD).replace(**change)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_is_immutable_and_apart_from_its_input() -> None:
    """A problem shares no writable memory with what it was made of."""
    rate = np.array([1.0, 0.5])
    problem = PlacementProblem(**(GOOD | {"route_rate": rate}))
    rate[0] = 7.0
    assert problem.route_rate[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        problem.route_rate[0] = 2.0
    assert problem.replace(min_replicas=2).route_rate is problem.route_rate


def test_placement_digest_and_bytes() -> None:
    """The digest depends on shape and content only; bytes used follow the columns."""
    holds = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    placement = Placement(holds)
    assert placement.digest == Placement(holds.astype(np.int64)).digest
    assert placement.digest != Placement(holds.reshape(3, 2)).digest
    assert placement.used_bytes(PlacementProblem(**GOOD)).tolist() == [5, 0]
    with pytest.raises(ProblemError, match=r"holds\[0,1\]: is 2, expected 0 or 1"):
        Placement(np.array([[0, 2]], np.uint8))
    with pytest.raises(ProblemError, match="holds: has 1 dimensions, expected 2"):
        Placement(np.array([0, 1], np.uint8))
