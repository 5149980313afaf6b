"""When the worker looks for a better placement, and the reason it gives."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest

from app.clusters.schemas import ClusterRecord, ClusterSettings
from app.models.schemas import Block, ModelRecord
from app.nodes.schemas import Device, NodeRecord, NodeSpec
from app.observe.observation import InForce, Observation
from app.placements.schemas import Evidence, PlacementDocument, PlacementMetadata, PlacementSpec
from app.solve.triggers import FIRST_TELEMETRY_SECONDS, SETTLE_SECONDS, Reason, Triggers
from app.statistics.fleet import Fleet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = 100.0
EVIDENCE = Evidence(
    algorithm="sgd",
    objective=None,
    lower_bound=None,
    gap_ratio=None,
    mean_latency_seconds=None,
    objective_before=None,
    migration_bytes=None,
    runtime_seconds=None,
    telemetry_until=None,
    reason="INTERVAL",
)


def node(node_id: str, *, draining: bool = False, memory: int = 1000) -> NodeRecord:
    spec = NodeSpec(instance_uid="i", devices=[Device(device_id="g", memory_bytes=memory)])
    return NodeRecord(node_id=node_id, uid="u", created_at=NOW, updated_at=NOW, draining=draining, spec=spec)


def model(model_id: str = "m") -> ModelRecord:
    return ModelRecord(
        model_id=model_id,
        digest="d",
        created_at=NOW,
        updated_at=NOW,
        blocks=[Block(layer=0, experts=2, expert_bytes=10, top_k=1)],
        source="blocks",
        origin_url=None,
    )


def observed(
    *nodes: NodeRecord,
    live: str | None = None,
    generation: int | None = 1,
    placed_on: str = "ab",
    models: tuple[ModelRecord, ...] = (model(),),
    paused: bool = False,
    evidence: Evidence = EVIDENCE,
    **settings: object,
) -> Observation:
    fleet = Fleet.of(models, nodes or (node("a"), node("b")))
    everything = ClusterSettings.model_validate({"optimization_interval_seconds": INTERVAL} | settings)
    in_force = None
    if generation is not None:
        document = PlacementDocument(
            metadata=PlacementMetadata(
                uid="u", generation=generation, digest="d", created_at=NOW, supersedes=None
            ),
            spec=PlacementSpec(nodes=list(placed_on), models=["m"], holds=[]),
            evidence=evidence,
        )
        in_force = InForce(generation, document, np.zeros(fleet.shape, np.uint8))
    return Observation(
        cluster=ClusterRecord(cluster_id="c", uid="u", created_at=NOW, updated_at=NOW, settings=everything),
        fleet=fleet,
        statuses={},
        live=frozenset(fleet.node_ids) if live is None else frozenset(live),
        lease_ends={},
        held=np.zeros(fleet.shape, np.uint8),
        obsolete={},
        in_force=in_force,
        paused=paused,
        active_plan=None,
        commands_waiting=False,
        jobs_waiting=False,
        spec_version=1,
        held_version=1,
        live_version=1,
    )


def after(first: Observation) -> Triggers:
    """Triggers that have solved `first` at time 0."""
    triggers = Triggers()
    triggers.due(first, None, 0.0)
    triggers.solving(first, None, 0.0)
    return triggers


def test_first_placement_waits_until_registrations_settle() -> None:
    """Nodes that register one after another get one placement, not one each."""
    triggers = Triggers()
    assert triggers.due(observed(node("a"), generation=None), None, 0.0) is None
    both = observed(generation=None)
    assert triggers.due(both, None, SETTLE_SECONDS) is None
    assert triggers.due(both, None, 2 * SETTLE_SECONDS) is Reason.FIRST_PLACEMENT
    triggers.solving(both, None, 2 * SETTLE_SECONDS)
    assert triggers.due(both, None, 3 * SETTLE_SECONDS) is None, "found impossible: not again at once"
    assert triggers.due(both, None, 2 * SETTLE_SECONDS + INTERVAL) is Reason.FIRST_PLACEMENT


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (observed(live="a"), Reason.NODES_LOST),
        (observed(node("a"), node("b", draining=True)), Reason.NODES_DRAINING),
        (observed(node("a"), node("b"), node("c")), Reason.NODES_JOINED),
        (observed(node("a"), node("b", memory=999)), Reason.NODES_CHANGED),
        (observed(models=(model(), model("n"))), Reason.MODELS_CHANGED),
        (observed(min_improvement=0.5), Reason.SETTINGS_CHANGED),
        (observed(node("a"), node("c"), live="ac"), Reason.NODES_LOST),
    ],
)
def test_change_is_seen_once(change: Observation, expected: Reason) -> None:
    """Each kind of change is a reason of its own (the most pressing one is given), and only once."""
    triggers = after(observed())
    assert triggers.due(observed(), None, 1.0) is None
    if expected is Reason.NODES_LOST:
        assert triggers.due(change, None, 2.0) is expected, "not to be waited with"
    else:
        assert triggers.due(change, None, 2.0) is None
    assert triggers.due(change, None, 2.0 + SETTLE_SECONDS) is expected
    triggers.solving(change, None, 4.0)
    assert triggers.due(change, None, 5.0) is None


def test_first_telemetry_is_not_left_until_the_interval() -> None:
    """A placement made blindly is reconsidered once, when the first windows have settled."""
    look = observed()
    triggers = after(look)
    assert triggers.due(look, None, 40.0) is None
    assert triggers.due(look, 7, 50.0) is None
    assert triggers.due(look, 8, 50.0 + FIRST_TELEMETRY_SECONDS) is Reason.FIRST_TELEMETRY
    triggers.solving(look, 8, 56.0)
    assert triggers.due(look, 9, 70.0) is None, "not adopted, perhaps: that is what the interval is for"
    hurried = observed(optimization_interval_seconds=2.0)
    triggers = after(hurried)
    assert triggers.due(hurried, 7, 1.0) is None
    assert triggers.due(hurried, 7, 3.0) is Reason.FIRST_TELEMETRY


@pytest.mark.parametrize("algorithm", ["operator", "rollback"])
def test_first_telemetry_leaves_an_operators_placement(algorithm: str) -> None:
    """What an operator brought into force without telemetry is not taken for the service's guess."""
    look = observed(evidence=EVIDENCE.model_copy(update={"algorithm": algorithm}))
    triggers = after(look)
    assert triggers.due(look, 7, 1.0) is None
    assert triggers.due(look, 7, 1.0 + FIRST_TELEMETRY_SECONDS) is None
    assert triggers.due(look, 7, INTERVAL) is Reason.INTERVAL


def test_interval_needs_new_telemetry() -> None:
    """On the interval nothing is solved twice over the same statistics, nor without any."""
    look = observed(evidence=EVIDENCE.model_copy(update={"telemetry_until": NOW}))
    triggers = after(look)
    assert triggers.due(look, None, INTERVAL + 1) is None
    assert triggers.due(look, 7, INTERVAL - 1) is None
    assert triggers.due(look, 7, INTERVAL + 1) is Reason.INTERVAL
    triggers.solving(look, 7, INTERVAL + 1)
    assert triggers.due(look, 7, 3 * INTERVAL) is None
    assert triggers.due(look, 8, 3 * INTERVAL) is Reason.INTERVAL


@pytest.mark.parametrize("still", [observed(live="a", paused=True), observed(live="a", automatic=False)])
def test_paused_cluster_is_left_alone(still: Observation) -> None:
    """While recomputation is paused or off, not even a lost node leads to a solve."""
    triggers = after(observed())
    assert triggers.due(still, None, 50.0) is None


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (observed(live="a"), Reason.NODES_LOST),
        (observed(node("a")), Reason.NODES_LOST),
        (observed(node("a"), node("b", draining=True)), Reason.NODES_DRAINING),
        (observed(node("a"), node("b"), node("c")), Reason.NODES_JOINED),
        (observed(models=(model("n"),)), Reason.MODELS_CHANGED),
        (observed(), Reason.INTERVAL),
    ],
)
def test_worker_that_takes_over_compares_with_the_placement(look: Observation, expected: Reason) -> None:
    """A new worker knows nothing of before: the placement in force tells what it was made for."""
    assert Triggers().due(look, None, 10.0) is expected


def test_failed_solve_is_tried_again() -> None:
    """After a crash the same situation is looked at as if for the first time."""
    look = dataclasses.replace(observed(live="a"))
    triggers = after(look)
    assert triggers.due(look, None, 1.0) is None
    triggers.forget()
    assert triggers.due(look, None, 1.0) is Reason.NODES_LOST
