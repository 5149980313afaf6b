"""OmniPlacement's pattern: which device holds which expert, as 0 and 1. Devices may hold unequal numbers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from agent.interop.arrays import whole
from agent.interop.faults import InteropError
from agent.interop.files import read_npy, write_whole
from agent.interop.layers import LayerIndex
from agent.interop.placements import FleetPlacement, Held, HeldSets
from agent.interop.slots import one_size


def write(path: Path, placement: FleetPlacement, ranks_per_node: int) -> dict[str, object]:
    """`.npy` int32 [devices, MoE layers, experts]; the experts of a node are dealt to its devices in turn."""
    placement.require_everywhere("a pattern")
    experts = one_size(placement)
    devices = len(placement.nodes) * ranks_per_node
    pattern = np.zeros((devices, len(placement.holds), experts), np.int32)
    for layer, held in enumerate(placement.holds):
        for n, of_node in enumerate(held):
            chosen = np.flatnonzero(of_node)
            pattern[n * ranks_per_node + np.arange(len(chosen)) % ranks_per_node, layer, chosen] = 1
    packed = io.BytesIO()
    np.save(packed, pattern)
    write_whole(path, packed.getvalue())
    return {"devices": devices, "shape": list(pattern.shape)}


def read_map(path: Path, nodes: int, ranks_per_node: int) -> HeldSets:
    pattern = whole("array", read_npy(path), "[devices, layers, experts]")
    if not np.isin(pattern, (0, 1)).all():
        raise InteropError("array: expected 0 and 1 only")
    if len(pattern) != nodes * ranks_per_node:
        raise InteropError(f"array: has {len(pattern)} devices, expected {nodes * ranks_per_node}")
    by_node = pattern.reshape(nodes, ranks_per_node, *pattern.shape[1:])
    held: Held = by_node.max(axis=1) > 0
    return HeldSets(LayerIndex.MOE, {layer: held[:, layer] for layer in range(held.shape[1])})
