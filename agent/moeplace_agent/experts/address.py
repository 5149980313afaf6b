"""Where an expert is found at whoever serves it."""

from __future__ import annotations

from moeplace_agent.holdings import ExpertKey

EXPERTS_PATH = "/v1/experts"
HEALTH_PATH = "/healthz"


def expert_path(key: ExpertKey) -> str:
    """Below the base URL."""
    return f"{EXPERTS_PATH}/{key.model_id}/{key.layer}/{key.expert}"
