"""SGLang's `--init-expert-location` files: counts that it balances by, or a placement as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import msgspec
import numpy as np

from moeplace_agent.interop.arrays import Ids, counts, ids
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import decode_json, read_json, write_whole
from moeplace_agent.interop.layers import LayerIndex
from moeplace_agent.interop.observations import Observation, rows_of
from moeplace_agent.interop.placements import FleetPlacement, HeldSets
from moeplace_agent.interop.sglang_models import SGLANG
from moeplace_agent.interop.slots import SlotTable, held_by_ranks, one_size, slot_table

_ROWS = list[list[float]]


class _Counts(msgspec.Struct):
    logical_count: msgspec.Raw


class _Map(msgspec.Struct):
    physical_to_logical_map: list[list[int]]


def read_counts(path: Path) -> Iterator[Observation]:
    """`{"logical_count": [layers][experts]}`, or with a list of those, by step."""
    raw = read_json(path, _Counts).logical_count
    cells = [cell for row in decode_json(raw, list[list[Any]], "logical_count") for cell in row[:1]]
    by_step = bool(cells) and isinstance(cells[0], list)
    values = decode_json(raw, list[_ROWS] if by_step else _ROWS, "logical_count")
    if by_step:
        table = counts("logical_count", values, "[steps, layers, experts]").sum(axis=0)
    else:
        table = counts("logical_count", values, "[layers, experts]")
    yield from rows_of("logical_count", table)


def write(path: Path, placement: FleetPlacement, ranks_per_node: int) -> dict[str, object]:
    """`{"physical_to_logical_map": [model layers][slots]}` and no other key, which SGLang would take for an
    argument it does not know. Slot i is of rank i // slots per rank. SGLang wants a row for every layer of
    the model: dense ones get slot i = expert i modulo experts, as SGLang fills them itself."""
    table = slot_table(placement, ranks_per_node)
    experts = one_size(placement)
    slots = table.experts.shape[1]
    rows = np.tile(np.arange(slots, dtype=np.int64) % experts, (placement.moe.model_layers, 1))
    rows[list(placement.moe.numbers)] = table.experts
    write_whole(path, msgspec.json.encode({"physical_to_logical_map": rows.tolist()}))
    told = {"ep_num_redundant_experts": slots - experts, "ep_size": table.ranks}
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in told.items())
    command = (
        f"python -m sglang.launch_server --model-path MODEL --tp-size {table.ranks} {options} "
        f"--init-expert-location {quote(str(path.absolute()))}"
    )
    return table.summary | told | {"engine": f"{SGLANG} checks none of these options: {command}"}


def read_map(path: Path, nodes: int, ranks_per_node: int) -> HeldSets:
    """What each node holds by a `physical_to_logical_map`."""
    rows = read_json(path, _Map).physical_to_logical_map
    table: Ids = ids("physical_to_logical_map", rows, "[layers, slots]")
    if not table.size:
        raise InteropError("physical_to_logical_map: is empty")
    held = held_by_ranks("physical_to_logical_map", SlotTable(table, nodes * ranks_per_node), ranks_per_node)
    return HeldSets(LayerIndex.MODEL, dict(enumerate(held)))
