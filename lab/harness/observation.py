"""What the service says of a cluster at one moment, read over HTTP like anybody else would."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moeplace_agent.client import ServiceClient, ServiceProblem


@dataclass(frozen=True, slots=True)
class Observation:
    """`from_traffic`: the placement in force was computed from telemetry. `converged_at` is since when the
    fleet has been converged, None while it is not. `plan_*` is the newest plan, `moves_succeeded` and
    `bytes_done` are what all plans have done so far."""

    at: float
    generation: int | None
    from_traffic: bool
    algorithm: str | None
    gap_ratio: float | None
    expected_latency_seconds: float | None
    converged_at: float | None
    plan_state: str | None
    plan_moves_succeeded: int
    plan_moves_total: int
    moves_succeeded: int
    bytes_done: int
    reason: str | None


async def observe(client: ServiceClient) -> Observation:
    """Read placement, status and plans; raises `ServiceError`."""
    placement = await _read(client, "/placement")
    status = await _read(client, "/placement/status")
    plans = (await client.get("/migration_plans"))["migration_plans"]
    executed = [plan for plan in plans if not plan["validate_only"]]
    evidence: dict[str, Any] = placement["evidence"] if placement else {}
    return Observation(
        at=time.time(),
        generation=placement["metadata"]["generation"] if placement else None,
        from_traffic=evidence.get("telemetry_until") is not None,
        algorithm=evidence.get("algorithm"),
        gap_ratio=evidence.get("gap_ratio"),
        expected_latency_seconds=evidence.get("mean_latency_seconds"),
        converged_at=_converged_at(placement, status),
        plan_state=executed[0]["state"] if executed else None,
        plan_moves_succeeded=executed[0]["progress"]["moves_succeeded"] if executed else 0,
        plan_moves_total=executed[0]["progress"]["moves_total"] if executed else 0,
        moves_succeeded=sum(plan["progress"]["moves_succeeded"] for plan in executed),
        bytes_done=sum(plan["progress"]["bytes_done"] for plan in executed),
        reason=evidence.get("reason"),
    )


def _converged_at(placement: Any, status: Any) -> float | None:
    if placement is None or status is None or status["generation"] != placement["metadata"]["generation"]:
        return None
    for condition in status["conditions"]:
        if condition["type"] == "Converged" and condition["status"]:
            return _seconds(condition["since"])
    return None


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


async def _read(client: ServiceClient, path: str) -> Any:
    try:
        return await client.get(path)
    except ServiceProblem as problem:
        if problem.status == 404:
            return None
        raise
