"""Slices and observations for tests."""

from __future__ import annotations

from lab.demo.slices import Slice
from lab.harness.observation import Observation


def told(
    node_id: str,
    begin: float,
    *,
    seconds: float = 1.0,
    domain: str = "python",
    requests: list[int] | None = None,
    latency_seconds: float = 1.0,
    local: int = 0,
    generation: int | None = 1,
    held: int = 10,
) -> Slice:
    numbers = [0] if requests is None else requests
    tokens = 256 * len(numbers)
    return Slice(
        node_id=node_id,
        begin=begin,
        end=begin + seconds,
        domain=domain,
        requests=numbers,
        tokens=tokens,
        latency_seconds=latency_seconds,
        local=local,
        activations=12 * tokens,
        generation=generation,
        held=held,
        used_bytes=held * 98_304,
        windows_dropped=0,
        retries=0,
    )


def seen(
    at: float, generation: int | None, *, converged_at: float | None = None, from_traffic: bool = True
) -> Observation:
    return Observation(
        at=at,
        generation=generation,
        from_traffic=from_traffic,
        algorithm="sgd",
        gap_ratio=0.06,
        expected_latency_seconds=0.015,
        converged_at=converged_at,
        plan_state="RUNNING",
        plan_moves_succeeded=3,
        plan_moves_total=5,
        moves_succeeded=260,
        bytes_done=3 * 98_304,
        reason="INTERVAL",
    )
