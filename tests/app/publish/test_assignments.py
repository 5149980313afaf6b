"""Routing tables say where to call for what a node does not hold: nearest first, as a naive twin says."""

import numpy as np
import pytest

from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import Device, NodeRecord, NodeSpec
from app.placements.schemas import Assignment
from app.publish.assignments import (
    MAX_TARGETS,
    Tables,
    assignment_contents,
    assignment_versions,
    encode_assignments,
)
from app.statistics.fleet import Fleet
from app.storage.documents import EncodedDocument
from solvers.problem import PlacementProblem
from tests.app.worker.simulation import NOW


def tables(seed: int, *, nodes: int = 6, origin: bool = True) -> Tables:
    generator = np.random.default_rng(seed)
    model = ModelRecord(
        model_id="m",
        digest="x",
        created_at=NOW,
        updated_at=NOW,
        blocks=[
            Block(layer=layer, experts=int(generator.integers(2, 9)), expert_bytes=10, top_k=1)
            for layer in (0, 3, 7)
        ],
        source="blocks",
        origin_url=None,
    )
    records = [
        NodeRecord(
            node_id=f"n{number}",
            uid="u",
            created_at=NOW,
            updated_at=NOW,
            spec=NodeSpec(
                instance_uid="i",
                devices=[
                    Device(device_id="g0", memory_bytes=1000),
                    Device(device_id="g1", memory_bytes=500),
                ],
                base_url=f"http://n{number}",
            ),
        )
        for number in range(nodes)
    ]
    fleet = Fleet.of([model], records)
    latency = generator.integers(1, 5, (nodes, nodes)) / 100.0
    latency[generator.random((nodes, nodes)) < 0.2] = np.inf
    np.fill_diagonal(latency, 0.0)
    problem = PlacementProblem(
        expert_bytes=fleet.expert_bytes,
        experts_per_block=fleet.experts_per_block,
        capacity_bytes=np.full(nodes, 1500),
        latency_seconds=latency,
        origin_latency_seconds=np.full(nodes, 0.03 if origin else np.inf),
        route_node=np.zeros(0, np.int32),
        route_block=np.zeros(0, np.int32),
        route_experts=np.zeros((0, 1), np.int32),
        route_rate=np.zeros(0),
        device_node=np.repeat(np.arange(nodes), 2),
        device_capacity_bytes=np.tile([1000, 500], nodes),
    )
    desired = (generator.random(fleet.shape) < 0.5).astype(np.uint8)
    serving = (generator.random(fleet.shape) < 0.4).astype(np.uint8)
    return Tables(fleet, problem, desired, serving, "http://origin", "u1", 7)


def naive_targets(made: Tables, row: int, column: int) -> list[str | None]:
    """Ids of the nearest places that serve the expert; None is the origin, after nodes as near."""
    found: list[tuple[float, int, str | None]] = [
        (float(made.problem.latency_seconds[row, other]), other, node_id)
        for other, node_id in enumerate(made.fleet.node_ids)
        if other != row and made.serving[other, column]
    ]
    found.append((float(made.problem.origin_latency_seconds[row]), 10_000, None))
    return [name for seconds, _, name in sorted(found, key=lambda f: f[:2]) if np.isfinite(seconds)][
        :MAX_TARGETS
    ]


def encoded(made: Tables) -> dict[str, EncodedDocument]:
    contents = assignment_contents(made)
    return encode_assignments(made, contents, assignment_versions(made, contents, {}, "1-1"))


@pytest.mark.parametrize("seed", range(12))
def test_routes_equal_a_naive_twin(seed: int) -> None:
    """Every expert a node does not serve has a route to the nearest who do, every other has none."""
    made = tables(seed, origin=seed % 3 != 0)
    documents = encoded(made)
    for row, node_id in enumerate(made.fleet.node_ids):
        assignment = Assignment.model_validate_json(documents[node_id].json)
        assert assignment.node_id == node_id
        found = {
            made.fleet.column(routes.model_id, routes.layer, expert): [
                assignment.targets[index].node_id for index in listed
            ]
            for routes in assignment.routes
            for expert, listed in zip(routes.experts, routes.targets, strict=True)
        }
        expected = {
            column: naive_targets(made, row, column)
            for column in range(made.fleet.experts)
            if not made.serving[row, column]
        }
        assert found == expected
        latencies = [target.latency_seconds for target in assignment.targets]
        assert latencies == sorted(latencies)


@pytest.mark.parametrize("seed", range(3))
def test_devices_hold_what_is_desired_and_fit(seed: int) -> None:
    """Each desired expert is on one device, and no device is over its memory."""
    made = tables(seed)
    documents = encoded(made)
    for row, node_id in enumerate(made.fleet.node_ids):
        assignment = Assignment.model_validate_json(documents[node_id].json)
        held = [entry for device in assignment.devices for entry in device.holds]
        columns = made.fleet.columns_of_held(held)
        assert sorted(columns.tolist()) == np.flatnonzero(made.desired[row]).tolist()
        for device, memory in zip(assignment.devices, (1000, 500), strict=True):
            assert sum(len(entry.experts) for entry in device.holds) * 10 <= memory


def test_version_follows_content_and_generation() -> None:
    """The same tables give the same version, another generation or another serving copy a different one."""
    made = tables(1)
    contents = assignment_contents(made)
    assert assignment_contents(made) == contents
    versions = assignment_versions(made, contents, {}, "1-1")
    assert encode_assignments(made, contents, versions)["n0"].version == versions["n0"]
    assert assignment_versions(made, contents, versions, "1-2") == versions
    serving = made.serving.copy()
    serving[1, :] = 1 - serving[1, :]
    other = Tables(made.fleet, made.problem, made.desired, serving, "http://origin", "u1", 7)
    assert assignment_versions(other, assignment_contents(other), versions, "1-2")["n0"] != versions["n0"]
    later = Tables(made.fleet, made.problem, made.desired, made.serving, "http://origin", "u1", 8)
    assert assignment_versions(later, contents, versions, "1-2")["n0"] != versions["n0"]


def test_no_version_comes_back() -> None:
    """Tables that return to what they said before have another version: a node that used them then, and has
    used others since, is not taken for one that uses them now."""
    made = tables(1)
    serving = made.serving.copy()
    serving[1, :] = 1 - serving[1, :]
    other = Tables(made.fleet, made.problem, made.desired, serving, "http://origin", "u1", 7)
    first = assignment_versions(made, assignment_contents(made), {}, "1-1")
    second = assignment_versions(other, assignment_contents(other), first, "1-2")
    third = assignment_versions(made, assignment_contents(made), second, "1-3")
    assert len({first["n0"], second["n0"], third["n0"]}) == 3
