"""The placement of one model in a running service."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from app.cli.service_access import RegisteredModel, ask_service, get_model
from app.cli.solve import refuse
from moeplace_agent.client import ServiceClient, converted
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import MoeLayers
from moeplace_agent.interop.placements import FleetPlacement
from moeplace_agent.messages import HeldExperts


class _Holdings(msgspec.Struct):
    node_id: str
    holds: list[HeldExperts]


class _Spec(msgspec.Struct):
    nodes: list[str]
    models: list[str]
    holds: list[_Holdings]


class _Placement(msgspec.Struct):
    spec: _Spec


def placement_of_service(
    base_url: str,
    cluster_id: str,
    token: str | None,
    model_id: str | None,
    generation: int | None,
    known: MoeLayers | None,
) -> FleetPlacement:
    """Of the generation in force, or of another. The model's registration says which layers are MoE layers;
    `known` adds how many layers there are in all, and must agree. `model_id` may be absent where there is one
    model."""

    async def ask(client: ServiceClient) -> tuple[_Spec, str, RegisteredModel]:
        path = "/placement" if generation is None else f"/placements/{generation}"
        spec = converted(await client.get(path), _Placement).spec
        chosen = model_id
        if chosen is None and len(spec.models) == 1:
            chosen = spec.models[0]
        if chosen is None or chosen not in spec.models:
            refuse(f"--model: is {chosen}, expected one of {', '.join(spec.models)}")
        return spec, chosen, await get_model(client, chosen)

    spec, chosen, model = ask_service(base_url, cluster_id, token, ask)
    layers = [block.layer for block in model.blocks]
    try:
        moe = MoeLayers.of(layers, None if known is None else known.model_layers)
    except InteropError as error:
        refuse(f"--model-layers: {error}")
    if known is not None and known.numbers != moe.numbers:
        refuse(f"--moe-layers: are {known}, expected {moe} as {chosen} is registered")
    return FleetPlacement(tuple(spec.nodes), moe, _holds(spec, chosen, model))


def _holds(spec: _Spec, model_id: str, model: RegisteredModel) -> tuple[Any, ...]:
    position = {node: n for n, node in enumerate(spec.nodes)}
    holds = {block.layer: np.zeros((len(spec.nodes), block.experts), np.bool_) for block in model.blocks}
    for of_node in spec.holds:
        for held in of_node.holds:
            if held.model_id == model_id and held.experts:
                if held.layer not in holds or max(held.experts) >= holds[held.layer].shape[1]:
                    refuse(
                        f"--generation: it holds experts of layer {held.layer} that {model_id}, registered "
                        "anew since, does not have"
                    )
                holds[held.layer][position[of_node.node_id], held.experts] = True
    return tuple(holds[block.layer] for block in model.blocks)
