"""OmniPlacement's pattern: which device holds which expert, as 0 and 1. The engine gives every device room
for the mean, so devices hold equal numbers."""

from __future__ import annotations

import io
from pathlib import Path
from shlex import quote

import msgspec
import numpy as np

from moeplace_agent.interop.arrays import whole
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_npy, write_whole
from moeplace_agent.interop.layers import LayerIndex
from moeplace_agent.interop.placements import FleetPlacement, Held, HeldSets
from moeplace_agent.interop.slots import one_size, slot_table


def write(path: Path, placement: FleetPlacement, ranks_per_node: int) -> dict[str, object]:
    """`.npy` int32 [devices, MoE layers, experts]; the experts of a node are dealt to its devices in turn."""
    table = slot_table(placement, ranks_per_node)
    layers, slots = table.experts.shape
    pattern = np.zeros((table.ranks, layers, one_size(placement)), np.int32)
    device = np.arange(slots) // (slots // table.ranks)
    for layer, row in enumerate(table.experts):
        pattern[device, layer, row] = 1
    packed = io.BytesIO()
    np.save(packed, pattern)
    write_whole(path, packed.getvalue())
    settings = {
        "enable_omni_placement": True,
        "omni_placement_config": {
            "pattern_path": str(path.absolute()),
            "max_moe_layer_num": layers,
            "enable_dynamic": False,
        },
    }
    return {
        "devices": table.ranks,
        "shape": list(pattern.shape),
        "engine": f"OmniPlacement: --additional-config {quote(msgspec.json.encode(settings).decode())}",
    }


def read_map(path: Path, nodes: int, ranks_per_node: int) -> HeldSets:
    pattern = whole("array", read_npy(path), "[devices, layers, experts]")
    if not np.isin(pattern, (0, 1)).all():
        raise InteropError("array: expected 0 and 1 only")
    if len(pattern) != nodes * ranks_per_node:
        raise InteropError(f"array: has {len(pattern)} devices, expected {nodes * ranks_per_node}")
    by_node = pattern.reshape(nodes, ranks_per_node, *pattern.shape[1:])
    held: Held = by_node.max(axis=1) > 0
    return HeldSets(LayerIndex.MOE, {layer: held[:, layer] for layer in range(held.shape[1])})
