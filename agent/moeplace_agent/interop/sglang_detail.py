"""SGLang's recorder in `per_pass` and `per_token` mode: a `.pt` per rank, in physical experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moeplace_agent.interop.arrays import Ids, counts, field, ids
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.observations import Observation
from moeplace_agent.interop.tensors import read_pt


def read(path: Path) -> Iterator[Observation]:
    """`{records: [{forward_pass_id, rank, gatherer_key, global_physical_count [layers, physical],
    topk_ids_of_layer [layers, tokens, k]}], last_physical_to_logical_map [layers, physical]}`.

    A record with `topk_ids_of_layer`, -1 where a token or a slot is not used, gives routes, one without gives
    counts. Ids beyond the physical experts, of shared experts fused into the routed ones, become ids beyond
    the logical ones. Physical experts become logical ones by the map; it is the last one, so a recording
    during which SGLang rebalanced is not exact.
    """
    content = read_pt(path)
    to_logical = ids(
        "last_physical_to_logical_map",
        field(content, "last_physical_to_logical_map"),
        "[layers, physical]",
    )
    records = field(content, "records")
    if not isinstance(records, list):
        raise InteropError(f"records: is a {type(records).__name__}, expected a list")
    for at, record in enumerate(records):
        key = f"records[{at}]"
        if not isinstance(record, dict):
            raise InteropError(f"{key}: is a {type(record).__name__}, expected a dict")
        yield from _record(key, record, to_logical)


def _record(key: str, record: dict[Any, Any], to_logical: Ids) -> Iterator[Observation]:
    rank = record.get("rank")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
        raise InteropError(f"{key}.rank: is {rank!r:.60}, expected a whole number")
    layers, physical = to_logical.shape
    experts = int(to_logical.max(initial=-1)) + 1
    if record.get("topk_ids_of_layer") is not None:
        name = f"{key}.topk_ids_of_layer"
        chosen = ids(name, record["topk_ids_of_layer"], "[layers, tokens, k]", padded=True)
        _as_many_layers(name, len(chosen), layers)
        for layer in range(layers):
            routes = np.where(chosen[layer] < physical, chosen[layer], experts - physical + chosen[layer])
            routed = (chosen[layer] >= 0) & (chosen[layer] < physical)
            routes[routed] = to_logical[layer][chosen[layer][routed]]
            yield Observation(f"{name}[{layer}]", layer, rank, routes=routes, layers=layers, experts=experts)
        return
    name = f"{key}.global_physical_count"
    seen = counts(name, record.get("global_physical_count"), "[layers, physical]")
    _as_many_layers(name, len(seen), layers)
    if seen.shape[1] != physical:
        raise InteropError(f"{name}: has shape {seen.shape}, expected {to_logical.shape} as the map has")
    for layer in range(layers):
        logical_counts = np.bincount(to_logical[layer], seen[layer], minlength=experts).astype(np.float64)
        yield Observation(
            f"{name}[{layer}]", layer, rank, counts=logical_counts, layers=layers, experts=experts
        )


def _as_many_layers(key: str, found: int, layers: int) -> None:
    if found != layers:
        raise InteropError(f"{key}: has {found} layers, expected {layers} as the map has")
