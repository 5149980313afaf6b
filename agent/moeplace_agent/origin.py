"""The origin of a model: a checkpoint whose experts are served one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moeplace_agent.checkpoint.checkpoint import Checkpoint
from moeplace_agent.experts.content import Served
from moeplace_agent.experts.signing import Verifier
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.metrics import CONTENT_TYPE, SendingMetrics
from moeplace_agent.serving.application import experts_routes
from moeplace_agent.serving.sending import Sends, Sent, not_recorded


class CheckpointShelf:
    """Every expert of a checkpoint under one model's id."""

    def __init__(self, model_id: str, checkpoint: Checkpoint, digests: Mapping[tuple[int, int], str]) -> None:
        self.model_id = model_id
        self.checkpoint = checkpoint
        self.digests = digests

    async def find(self, key: ExpertKey) -> Served | None:
        layer = self.checkpoint.layers.get(key.layer, ())
        if key.model_id != self.model_id or not 0 <= key.expert < len(layer):
            return None
        return Served(layer[key.expert].content, self.digests[key.layer, key.expert])

    def manifest(self) -> Any:
        return {
            "model_id": self.model_id,
            "model_type": self.checkpoint.model_type,
            "layers": [
                {
                    "layer": layer,
                    "top_k": self.checkpoint.top_k[layer],
                    "data_bytes": self.checkpoint.expert_bytes(layer),
                    "tensors": [
                        {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape}
                        for tensor in experts[0].tensors
                    ],
                    "experts": [
                        {
                            "expert": expert.expert,
                            "data_bytes": expert.data_bytes,
                            "file_bytes": expert.content.size,
                            "sha256": self.digests[layer, expert.expert],
                        }
                        for expert in experts
                    ],
                }
                for layer, experts in self.checkpoint.layers.items()
            ],
        }


def model_spec(shelf: CheckpointShelf, origin_url: str) -> dict[str, Any]:
    """What the service is told of the model: the body of PUT /models/{model_id}."""
    return {
        "blocks": [
            {
                "layer": layer,
                "experts": len(experts),
                "expert_bytes": shelf.checkpoint.expert_bytes(layer),
                "top_k": shelf.checkpoint.top_k[layer],
                "expert_digests": [shelf.digests[layer, expert.expert] for expert in experts],
            }
            for layer, experts in shelf.checkpoint.layers.items()
        ],
        "origin_url": origin_url,
    }


def origin_application(
    shelf: CheckpointShelf,
    *,
    at_once: int = 4,
    bytes_per_second: float | None = None,
    verifier: Verifier | None = None,
    sent: Sent = not_recorded,
) -> Starlette:
    """The shelf over HTTP, with /metrics. At most `at_once` experts are sent at a time, together at most
    `bytes_per_second`. `verifier`: judges requests for experts; None: anybody may fetch. `sent`: as of
    `Sends`."""
    registry = CollectorRegistry()
    metrics = SendingMetrics(registry)
    sends = Sends(
        at_once,
        bytes_per_second,
        counted=metrics.sent_bytes.inc,
        refused=metrics.sends_refused.inc,
        sent=sent,
    )

    async def expose(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE)

    return Starlette(routes=[*experts_routes(shelf, sends, verifier=verifier), Route("/metrics", expose)])
