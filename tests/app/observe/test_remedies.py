"""Why there is no placement, and what to do, in words that name nodes and bytes."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest

from app.clusters.schemas import ClusterSettings, OriginSpec
from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import Device, NodeRecord, NodeSpec
from app.observe.holdup import Holdup
from app.observe.remedies import bytes_in_words, no_room
from app.placements.schemas import Outlook
from app.statistics.fleet import Fleet
from app.statistics.problem import build_problem
from app.statistics.statistics import Statistics
from solvers.feasible.shortage import shortage
from tests.app.report.test_conditions import observed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ORIGIN = OriginSpec()
BY_ORIGIN = "let the origin serve what no node has room for (min_replicas: 0)"
GET_ORIGIN = "give the cluster an origin and set min_replicas to 0"


def node(name: str, *devices: int, draining: bool = False) -> NodeRecord:
    spec = NodeSpec(
        instance_uid="i",
        devices=[Device(device_id=f"g{index}", memory_bytes=size) for index, size in enumerate(devices)],
    )
    return NodeRecord(node_id=name, uid=name, created_at=NOW, updated_at=NOW, draining=draining, spec=spec)


def holdup(
    settings: ClusterSettings,
    *nodes: NodeRecord,
    lost: tuple[str, ...] = (),
    experts: int = 12,
    size: int = 65536,
) -> Holdup:
    model = ModelRecord(
        model_id="toy",
        digest="d",
        created_at=NOW,
        updated_at=NOW,
        blocks=[Block(layer=0, experts=experts, expert_bytes=65536, top_k=2)],
        source="blocks",
        origin_url=None,
    )
    fleet = Fleet.of([model], nodes)
    live = frozenset(fleet.node_ids) - set(lost)
    held = np.zeros(fleet.shape, np.uint8)
    problem = build_problem(fleet, settings, Statistics({}, None), holds=held, live=live, statuses={}).problem
    lack = shortage(problem)
    assert lack is not None
    return no_room(dataclasses.replace(observed(settings), fleet=fleet, live=live, held=held), lack)


FULL = 4 * 65536


@pytest.mark.parametrize(
    ("found", "reason", "remedy"),
    [
        (
            holdup(
                ClusterSettings(origin=ORIGIN),
                node("edge-a", FULL),
                node("edge-b", FULL),
                node("edge-c", FULL),
                lost=("edge-c",),
            ),
            "not enough memory without edge-c (lost): 4 of 12 experts, 262144 bytes (262 kB), have no place",
            f"bring edge-c back, or add 262144 bytes (262 kB) of memory for experts, or {BY_ORIGIN}",
        ),
        (
            holdup(
                ClusterSettings(),
                node("edge-a", FULL),
                node("edge-b", FULL),
                node("edge-c", FULL, draining=True),
            ),
            "not enough memory without edge-c (draining): 4 of 12 experts, 262144 bytes (262 kB), have no "
            "place",
            "let edge-c stay (POST /v1/clusters/c/nodes/edge-c:undrain), or add 262144 bytes (262 kB) of "
            f"memory for experts, or {GET_ORIGIN}",
        ),
        # two devices of 1.5 experts hold one each
        (
            holdup(ClusterSettings(), node("edge-a", 98304, 98304, 8 * 65536)),
            "not enough memory: 2 of 12 experts, 131072 bytes (131 kB), have no place",
            f"add 131072 bytes (131 kB) of memory for experts, or {GET_ORIGIN}",
        ),
        (
            holdup(ClusterSettings(), node("edge-a", 60000, 60000), experts=2),
            "not enough memory: 2 of 2 experts, 131072 bytes (131 kB), have no place; the largest expert has "
            "65536 bytes (65.5 kB), the largest device 60000 bytes (60 kB)",
            "add 131072 bytes (131 kB) of memory for experts, with a device of at least 65536 bytes "
            f"(65.5 kB), or {GET_ORIGIN}",
        ),
        (
            holdup(ClusterSettings(min_replicas=2, origin=ORIGIN), node("edge-a", 9 * FULL)),
            "min_replicas is 2, and only 1 node may hold experts",
            "add 786432 bytes (786 kB) of memory for experts on one more node, or set min_replicas to 1, or "
            f"{BY_ORIGIN}",
        ),
        (
            holdup(
                ClusterSettings(),
                node("edge-a", FULL),
                node("edge-b", FULL),
                node("edge-c", FULL),
                lost=("edge-b", "edge-c"),
            ),
            "not enough memory without edge-b (lost) and edge-c (lost): 8 of 12 experts, 524288 bytes "
            "(524 kB), have no place",
            "bring edge-b and edge-c back, or add 524288 bytes (524 kB) of memory for experts, or "
            f"{GET_ORIGIN}",
        ),
        (
            holdup(ClusterSettings(), node("edge-a", FULL), node("edge-b", FULL), lost=("edge-b",)),
            "not enough memory without edge-b (lost): 8 of 12 experts, 524288 bytes (524 kB), have no place",
            "bring edge-b back and add 262144 bytes (262 kB) of memory for experts, or add 524288 bytes "
            f"(524 kB) of memory for experts, or {GET_ORIGIN}",
        ),
        (
            holdup(ClusterSettings(), node("edge-a", 3 * FULL, draining=True)),
            "no node may hold experts: edge-a (draining)",
            "let edge-a stay (POST /v1/clusters/c/nodes/edge-a:undrain), or add 786432 bytes (786 kB) of "
            f"memory for experts, or {GET_ORIGIN}",
        ),
    ],
)
def test_a_fleet_without_room_says_what_is_short_and_what_to_do(
    found: Holdup, reason: str, remedy: str
) -> None:
    """The nodes that are out, the experts without a place in exact bytes, and each way to get out of it."""
    assert found == Holdup(Outlook.CANNOT, reason, remedy)


def test_bytes_are_exact_and_readable() -> None:
    """The exact number always, and three digits of it with a unit."""
    assert bytes_in_words(1) == "1 byte"
    assert bytes_in_words(999) == "999 bytes"
    assert bytes_in_words(786_432) == "786432 bytes (786 kB)"
    assert bytes_in_words(2_500_000_000) == "2500000000 bytes (2.5 GB)"
