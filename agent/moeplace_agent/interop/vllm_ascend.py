"""vllm-ascend's expert map (`expert_map_path`)."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import msgspec

from moeplace_agent.interop.arrays import ids
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_json, write_whole
from moeplace_agent.interop.layers import LayerIndex
from moeplace_agent.interop.placements import FleetPlacement, HeldSets
from moeplace_agent.interop.slots import SlotTable, held_by_ranks, slot_table


class _Device(msgspec.Struct):
    device_id: int
    device_expert: list[int]


class _Layer(msgspec.Struct):
    layer_id: int
    device_count: int
    device_list: list[_Device]


class _Map(msgspec.Struct):
    moe_layer_count: int
    layer_list: list[_Layer]


def write(path: Path, placement: FleetPlacement, ranks_per_node: int) -> dict[str, object]:
    """`{moe_layer_count, layer_list: [{layer_id, device_count, device_list: [{device_id, device_expert}]}]}`.
    The engine finds layers and devices by their place in the lists, so `layer_id` counts MoE layers."""
    table = slot_table(placement, ranks_per_node)
    layers = [
        _Layer(
            ordinal,
            table.ranks,
            [_Device(rank, experts) for rank, experts in enumerate(row.reshape(table.ranks, -1).tolist())],
        )
        for ordinal, row in enumerate(table.experts)
    ]
    write_whole(path, msgspec.json.encode(_Map(len(layers), layers)))
    settings = msgspec.json.encode({"eplb_config": {"expert_map_path": str(path.absolute())}}).decode()
    return table.summary | {
        "devices": table.ranks,
        "engine": (
            f"vllm-ascend: --enable-expert-parallel --additional-config {quote(settings)} "
            "(older versions have expert_map_path without eplb_config)"
        ),
    }


def read_map(path: Path, nodes: int, ranks_per_node: int) -> HeldSets:
    content = read_json(path, _Map)
    if len(content.layer_list) != content.moe_layer_count:
        raise InteropError(
            f"layer_list: has {len(content.layer_list)} layers, expected moe_layer_count, "
            f"{content.moe_layer_count}"
        )
    ranks = nodes * ranks_per_node
    found = {}
    for at, layer in enumerate(content.layer_list):
        key = f"layer_list[{at}]"
        if layer.device_count != ranks or len(layer.device_list) != ranks:
            raise InteropError(
                f"{key}: has {len(layer.device_list)} devices, device_count {layer.device_count}, "
                f"expected {ranks}"
            )
        rows = [device.device_expert for device in layer.device_list]
        experts = ids(f"{key}.device_list", rows, "[devices, slots]")
        table = SlotTable(experts.reshape(1, -1), ranks)
        found[at] = next(held_by_ranks(key, table, ranks_per_node))
    return HeldSets(LayerIndex.MOE, found)
