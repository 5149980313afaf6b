"""Slots: the tables of engines that give every rank as many experts of every layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moeplace_agent.interop.arrays import Ids
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import MAX_LAYERS
from moeplace_agent.interop.placements import FleetPlacement, Held


@dataclass(frozen=True, slots=True, eq=False)
class SlotTable:
    """experts int64[layers, slots]: slot i is of rank i // (slots / ranks)."""

    experts: Ids
    ranks: int

    @property
    def summary(self) -> dict[str, object]:
        slots = self.experts.shape[1]
        return {"ranks": self.ranks, "slots": slots, "slots_per_rank": slots // self.ranks}


def slot_table(placement: FleetPlacement, ranks_per_node: int) -> SlotTable:
    """The table of a placement, nodes in their order. The experts of a node are dealt to its ranks in turn,
    ascending in each. `InteropError` names the node and layer that hold too many or too few."""
    placement.require_everywhere("a table of slots")
    slots = _equal_slots(placement)
    if slots % ranks_per_node:
        raise InteropError(
            f"{slots} slots per node and layer: expected a multiple of {ranks_per_node}, the ranks per node"
        )
    rows = []
    for held in placement.holds:
        row: list[Ids] = []
        for of_node in held:
            experts = np.flatnonzero(of_node)
            row.extend(experts[rank::ranks_per_node] for rank in range(ranks_per_node))
        rows.append(np.concatenate(row))
    return SlotTable(np.array(rows, np.int64), len(placement.nodes) * ranks_per_node)


def one_size(placement: FleetPlacement) -> int:
    """The experts of every layer; `InteropError` where layers differ, which no rectangle can say."""
    first = int(placement.holds[0].shape[1])
    for layer, held in zip(placement.moe.numbers, placement.holds, strict=True):
        if held.shape[1] != first:
            raise InteropError(
                f"layer {layer}: has {held.shape[1]} experts, expected {first} as layer "
                f"{placement.moe.numbers[0]} has"
            )
    return first


def held_by_ranks(key: str, table: SlotTable, ranks_per_node: int) -> Iterator[Held]:
    """By row of the table bool[nodes, experts]."""
    layers, slots = table.experts.shape
    if slots % table.ranks:
        raise InteropError(f"{key}: has {slots} slots, expected a multiple of the {table.ranks} ranks")
    if layers > MAX_LAYERS:
        raise InteropError(f"{key}: has {layers} layers, expected at most {MAX_LAYERS}")
    width = int(table.experts.max(initial=-1)) + 1
    nodes = table.ranks // ranks_per_node
    of_slot = np.arange(slots) // (slots // nodes)
    for layer in range(layers):
        held = np.zeros((nodes, width), np.bool_)
        held[of_slot, table.experts[layer]] = True
        yield held


def _equal_slots(placement: FleetPlacement) -> int:
    """Experts per node and layer; refuses the first node and layer, by their order, that hold others than
    what all hold on average."""
    counted = [
        (node, layer, int(held[n].sum()))
        for layer, held in zip(placement.moe.numbers, placement.holds, strict=True)
        for n, node in enumerate(placement.nodes)
    ]
    slots = sum(count for _, _, count in counted) // len(counted)
    others = [entry for entry in counted if entry[2] != slots]
    if others:
        node, layer, count = others[0]
        differs = f"{abs(count - slots)} too {'many' if count > slots else 'few'}"
        more = f", {len(others) - 1} more pairs of node and layer differ too" if len(others) > 1 else ""
        raise InteropError(
            f"node {node}, layer {layer}: holds {count} experts, {differs}: this target needs equal slots, "
            f"the mean over nodes and layers is {slots}{more} (see moeplace solve --equal-slots)"
        )
    return slots
