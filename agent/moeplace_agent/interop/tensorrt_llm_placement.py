"""TensorRT-LLM's load balancer configuration (`moe_config.load_balancer`), static."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from moeplace_agent.interop.arrays import ids
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_yaml, write_whole
from moeplace_agent.interop.layers import MAX_LAYERS, LayerIndex
from moeplace_agent.interop.placements import FleetPlacement, Held, HeldSets
from moeplace_agent.interop.slots import SlotTable, held_by_ranks, slot_table


def write(path: Path, placement: FleetPlacement, ranks_per_node: int) -> dict[str, object]:
    """`num_slots`, `initial_global_assignments: {layer: [expert per slot]}`, `layer_updates_per_iter: 0`, so
    that the engine leaves the placement alone. True layer numbers; the engine wants every MoE layer that it
    runs, its draft layers too."""
    table = slot_table(placement, ranks_per_node)
    rows = dict(zip(placement.moe.numbers, table.experts.tolist(), strict=True))
    content: dict[str, Any] = {
        "num_slots": table.experts.shape[1],
        "initial_global_assignments": rows,
        "layer_updates_per_iter": 0,
    }
    write_whole(path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100).encode())
    settings = msgspec.json.encode({"moe_config": {"load_balancer": str(path.absolute())}}).decode()
    return table.summary | {
        "ep_size": table.ranks,
        "engine": (
            f"TensorRT-LLM: trtllm-serve MODEL --tp_size {table.ranks} --ep_size {table.ranks} --config "
            f"FILE.yaml, where FILE.yaml says enable_attention_dp: true and {settings[1:-1]}; with draft "
            "(multi-token prediction) layers, export them with --draft-layers"
        ),
    }


def read_map(path: Path, nodes: int, ranks_per_node: int) -> HeldSets:
    """Of such a file, or of one that has it as `moe_config: {load_balancer: ...}`."""
    content = read_yaml(path)
    if isinstance(content, dict) and isinstance(content.get("moe_config"), dict):
        content = content["moe_config"].get("load_balancer")
    rows = content.get("initial_global_assignments") if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise InteropError("initial_global_assignments: expected the experts of each slot by layer")
    slots = content.get("num_slots")
    found: dict[int, Held] = {}
    for layer, row in rows.items():
        key = f"initial_global_assignments.{layer!s:.20}"
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < MAX_LAYERS:
            raise InteropError(f"{key}: expected a layer number")
        if not isinstance(row, list) or not all(type(expert) is int for expert in row):
            raise InteropError(f"{key}: expected a list of whole numbers")
        if len(row) != slots:
            raise InteropError(f"{key}: has {len(row)} slots, expected num_slots, {slots!s:.20}")
        table = SlotTable(ids(key, [row], "[layers, slots]"), nodes * ranks_per_node)
        found[layer] = next(held_by_ranks(key, table, ranks_per_node))
    return HeldSets(LayerIndex.MODEL, found)
