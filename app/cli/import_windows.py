"""Recorded activations as telemetry of a running service's nodes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from app.cli.service_access import ask_service, get_model, quoted
from app.cli.solve import refuse
from moeplace_agent.client import ServiceClient, converted
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers
from moeplace_agent.interop.observations import Activations
from moeplace_agent.interop.registry import RecordingFormat
from moeplace_agent.interop.sources import layer_index_of, moe_layers_of
from moeplace_agent.interop.windows import window_of
from moeplace_agent.telemetry import LayerShape, compress, encode_window


class _Spec(msgspec.Struct):
    instance_uid: str


class _Node(msgspec.Struct):
    spec: _Spec


def post_windows(
    base_url: str,
    cluster_id: str,
    token: str | None,
    model_id: str,
    found: Mapping[str, Activations],
    form: RecordingFormat,
    layer_index: LayerIndex | None,
    seconds: float,
    end_at: datetime,
) -> dict[str, Any]:
    """One window for each node, in the name of its registered instance; what was accepted, by node. Layers
    are numbered as `layer_index` says, or else as the format and the registered model's layers do. Nothing
    is posted before all windows are made, so a fault in one leaves the service as it was."""

    async def post(client: ServiceClient) -> dict[str, Any]:
        model = await get_model(client, model_id)
        shapes = {block.layer: LayerShape(block.experts, block.top_k) for block in model.blocks}
        moe = MoeLayers.of(sorted(shapes))
        index = layer_index or layer_index_of(form, found, moe)
        moe_layers_of(found, index, moe)
        ready = []
        for node_id, source in found.items():
            node = converted(await client.get(f"/nodes/{quoted(node_id)}"), _Node)
            try:
                window = window_of(model_id, shapes, source, index, seconds, end_at)
            except InteropError as error:
                raise InteropError(f"{node_id}: {error}") from None
            # Rising from import to import, and far above the numbers of an agent, which counts from 1.
            body = encode_window(window, node.spec.instance_uid, time.time_ns() // 1000)
            ready.append((node_id, window, compress(body)))
        posted: dict[str, Any] = {}
        for node_id, window, body in ready:
            answer = await client.post_telemetry(node_id, body, coding="zstd")
            faults = answer.partial_success
            posted[node_id] = {
                "tokens": window.tokens,
                "layers": len(window.layers),
                "routes": int(sum(len(layer.routes) for layer in window.layers)),
                "accepted": answer.accepted_count == 1,
                "rejected": [f"{fault.pointer} {fault.detail}" for fault in faults.errors] if faults else [],
            }
        return posted

    try:
        return ask_service(base_url, cluster_id, token, post)
    except InteropError as error:
        refuse(str(error))
