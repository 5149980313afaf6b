"""Figures out of range: refused in requests, read where they are stored, and never reckoned with."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from app.clusters.schemas import ClusterSettings, OriginSpec
from app.errors import InvalidRequest
from app.http.json_body import parse
from app.models.schemas import ModelSpec
from app.nodes.schemas import LatencySpec, NodeRecord, NodeSpec, NodeStatusRecord, NodeStatusReport
from app.optimizations.schemas import OptimizationRequest
from app.schema import Schema
from app.statistics.figures import fault_of_node, sound_settings, sound_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEVICE = {"device_id": "gpu0", "memory_bytes": 1}
SPEC = {"instance_uid": "i", "devices": [DEVICE]}
BEAT = {"instance_uid": "i", "sequence_number": 1}
BLOCK = {"layer": 0, "experts": 1, "expert_bytes": 1, "top_k": 1}

OUT_OF_RANGE: list[tuple[type[Schema], dict[str, Any], str]] = [
    (NodeSpec, {**SPEC, "ingress_bytes_per_second": 5e-324}, "/ingress_bytes_per_second"),
    (NodeSpec, {**SPEC, "egress_bytes_per_second": 1e14}, "/egress_bytes_per_second"),
    (NodeSpec, {**SPEC, "latency": {"local_seconds": 1e9}}, "/latency/local_seconds"),
    (NodeSpec, {**SPEC, "latency": {"peers_seconds": {"b": 1e9}}}, "/latency/peers_seconds/b"),
    (NodeSpec, {**SPEC, "latency": {"origin_seconds": 4000.0}}, "/latency/origin_seconds"),
    (NodeSpec, {**SPEC, "devices": [{**DEVICE, "memory_bytes": 2**53}]}, "/devices/0/memory_bytes"),
    (NodeStatusReport, {**BEAT, "latency": {"peers_seconds": {"b": 1e9}}}, "/latency/peers_seconds/b"),
    (ClusterSettings, {"default_latency_seconds": 1e9}, "/default_latency_seconds"),
    (ClusterSettings, {"horizon_seconds": 5e-324}, "/horizon_seconds"),
    (ClusterSettings, {"statistics_half_life_seconds": 5e-324}, "/statistics_half_life_seconds"),
    (ClusterSettings, {"origin": {"egress_bytes_per_second": 5e-324}}, "/origin/egress_bytes_per_second"),
    (ClusterSettings, {"origin": {"latency_seconds": 1e9}}, "/origin/latency_seconds"),
    (ClusterSettings, {"max_migration_bytes_per_second": 1e-9}, "/max_migration_bytes_per_second"),
    (ClusterSettings, {"max_node_migration_bytes_per_second": 1.0}, "/max_node_migration_bytes_per_second"),
    (ModelSpec, {"blocks": [{**BLOCK, "expert_bytes": 2**40}]}, "/blocks/0/expert_bytes"),
    (OptimizationRequest, {"overrides": {"capacity_bytes": {"a": 2**53}}}, "/overrides/capacity_bytes/a"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("model", "body", "pointer"), OUT_OF_RANGE, ids=[it[2] for it in OUT_OF_RANGE])
async def test_requests_out_of_range_are_refused_by_pointer(
    model: type[Schema], body: dict[str, Any], pointer: str
) -> None:
    """One such figure would have made the solves of a whole cluster fail."""
    with pytest.raises(InvalidRequest) as refused:
        await parse(model, orjson.dumps(body))
    assert [error.pointer for error in refused.value.errors] == [pointer]
    assert "should be" in refused.value.errors[0].detail


@pytest.mark.parametrize(("model", "body", "pointer"), OUT_OF_RANGE, ids=[it[2] for it in OUT_OF_RANGE])
def test_what_was_stored_before_can_be_read(model: type[Schema], body: dict[str, Any], pointer: str) -> None:
    """Ranges are for requests: a record from before them is no damaged one."""
    model.model_validate_json(orjson.dumps(body))


@pytest.mark.anyio
async def test_honest_extremes_are_taken() -> None:
    """A radio link, the fastest memory, a satellite, no latency at all."""
    for bandwidth in (1e3, 1e13):
        for latency in (0.0, 1e-9, 3600.0):
            body = {
                **SPEC,
                "ingress_bytes_per_second": bandwidth,
                "egress_bytes_per_second": bandwidth,
                "latency": {"local_seconds": latency, "peers_seconds": {"b": latency}},
            }
            await parse(NodeSpec, orjson.dumps(body))


def _node(**spec: Any) -> NodeRecord:
    found = NodeSpec.model_validate({**SPEC, **spec})
    return NodeRecord(node_id="a", uid="u", created_at=NOW, updated_at=NOW, spec=found)


def test_a_node_with_such_a_specification_is_named() -> None:
    """By its id, the figure, and what is expected of it; a sound one is not."""
    assert fault_of_node(_node()) is None
    fault = fault_of_node(_node(egress_bytes_per_second=5e-324))
    assert fault is not None
    assert fault.startswith("node a is left out")
    assert "egress_bytes_per_second is 4.94066e-324, expected 1000 to 1e+13" in fault
    assert fault_of_node(_node(latency={"peers_seconds": {"b": 1e9}})) is not None


def test_such_a_measurement_is_not_used() -> None:
    """The rest of the heartbeat is."""
    status = NodeStatusRecord(
        instance_uid="i",
        sequence_number=1,
        received_at=NOW,
        state="APPLIED",
        reason=None,
        generation=7,
        assignment_version=None,
        holds_digest=None,
        full_state_due=False,
        latency=LatencySpec(peers_seconds={"b": 1e9}),
    )
    sound, fault = sound_status("a", status)
    assert sound.latency is None
    assert sound.generation == 7
    assert fault is not None
    assert "node a" in fault
    usual = status.model_copy(update={"latency": LatencySpec(peers_seconds={"b": 0.1})})
    assert sound_status("a", usual) == (usual, None)


def test_settings_are_brought_into_range() -> None:
    """A cluster has one set of them, so it cannot be left out."""
    odd = ClusterSettings(
        horizon_seconds=5e-324,
        default_latency_seconds=1e9,
        origin=OriginSpec(egress_bytes_per_second=5e-324, latency_seconds=1e9),
    )
    sound, faults = sound_settings(odd)
    assert (sound.horizon_seconds, sound.default_latency_seconds) == (1.0, 3600.0)
    assert sound.origin is not None
    assert (sound.origin.egress_bytes_per_second, sound.origin.latency_seconds) == (1e3, 3600.0)
    assert len(faults) == 4
    assert sound_settings(ClusterSettings()) == (ClusterSettings(), [])
