"""EPLB's triple of maps, as `rebalance_experts` returns them, in an `.npz`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from moeplace_agent.interop.arrays import Ids, below, ids, whole
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_npz, write_whole
from moeplace_agent.interop.layers import LayerIndex
from moeplace_agent.interop.placements import FleetPlacement, HeldSets
from moeplace_agent.interop.slots import SlotTable, held_by_ranks, one_size, slot_table


def write(path: Path, placement: FleetPlacement, ranks_per_node: int) -> dict[str, object]:
    """physical_to_logical_map int64[L, P], logical_to_physical_map int64[L, E, X] padded with -1,
    expert_count int64[L, E]; slot = rank * slots per rank + local."""
    table = slot_table(placement, ranks_per_node)
    experts = one_size(placement)
    count = _count(table.experts, experts)
    to_physical = _inverse(table.experts, count, int(count.max()))
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        physical_to_logical_map=table.experts,
        logical_to_physical_map=to_physical,
        expert_count=count,
    )
    write_whole(path, packed.getvalue())
    return table.summary | {"most_replicas": int(count.max())}


def read_map(path: Path, nodes: int, ranks_per_node: int) -> HeldSets:
    """What each node holds; the three maps are held against each other."""
    arrays = read_npz(path)
    for name in ("physical_to_logical_map", "logical_to_physical_map", "expert_count"):
        if name not in arrays:
            raise InteropError(f"{name}: missing")
    table = ids("physical_to_logical_map", arrays["physical_to_logical_map"], "[layers, slots]")
    count = whole("expert_count", arrays["expert_count"], "[layers, experts]")
    below("physical_to_logical_map", table, count.shape[1])
    given = whole("logical_to_physical_map", arrays["logical_to_physical_map"], "[layers, experts, replicas]")
    if not np.array_equal(count, _count(table, count.shape[1])):
        raise InteropError("expert_count: differs from what physical_to_logical_map says")
    # what is compared is no larger than what the file holds
    if given.shape[:2] != count.shape or int(count.max(initial=0)) > given.shape[2]:
        raise InteropError(f"logical_to_physical_map: has shape {given.shape}, too small for expert_count")
    expected = _inverse(table, count, given.shape[2])
    if not np.array_equal(np.sort(given, axis=2), np.sort(expected, axis=2)):
        raise InteropError("logical_to_physical_map: differs from what physical_to_logical_map says")
    held = held_by_ranks("physical_to_logical_map", SlotTable(table, nodes * ranks_per_node), ranks_per_node)
    return HeldSets(LayerIndex.MOE, dict(enumerate(held)))


def _count(table: Ids, experts: int) -> Ids:
    count = np.zeros((len(table), experts), np.int64)
    for layer, row in enumerate(table):
        count[layer] = np.bincount(row, minlength=experts)
    return count


def _inverse(table: Ids, count: Ids, replicas: int) -> Ids:
    to_physical = np.full((*count.shape, replicas), -1, np.int64)
    for layer, row in enumerate(table.tolist()):
        filled = [0] * count.shape[1]
        for slot, expert in enumerate(row):
            to_physical[layer, expert, filled[expert]] = slot
            filled[expert] += 1
    return to_physical
