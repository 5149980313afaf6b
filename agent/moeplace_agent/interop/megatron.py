"""Megatron's `--moe-routing-trace-path`: a JSONL file per rank, a line per step and layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from moeplace_agent.interop.arrays import ids
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import decode_json, read_lines
from moeplace_agent.interop.layers import MAX_LAYERS
from moeplace_agent.interop.observations import Observation


class _Line(msgspec.Struct):
    layer: Annotated[int, msgspec.Meta(ge=0, lt=MAX_LAYERS)]
    rank: int
    num_tokens: int
    topk: int
    top_indices: list[list[int]]
    step: int = 0
    block: str = "decoder"
    mtp_idx: int | None = None


def read(path: Path) -> Iterator[Observation]:
    """`{step, layer, rank, num_tokens, topk, top_indices [num_tokens][topk]}`, -1 for no expert; a directory
    stands for all its `.jsonl` files. Lines of multi-token-prediction blocks are passed over: their layers
    are no layers of the decoder, whose numbers they use again."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InteropError("file: a directory without a .jsonl file")
    for file in files:
        prefix = f"{file.name}: " if path.is_dir() else ""
        try:
            for number, content in read_lines(file):
                yield from _observed(f"line {number}", content)
        except InteropError as error:
            raise InteropError(f"{prefix}{error}") from None


def _observed(key: str, content: str) -> Iterator[Observation]:
    try:
        line = decode_json(content, _Line)
    except InteropError as error:
        raise InteropError(f"{key}: {error}") from None
    if line.block != "decoder" or line.mtp_idx is not None:
        return
    if len(line.top_indices) != line.num_tokens:
        raise InteropError(
            f"{key}: top_indices has {len(line.top_indices)} rows, expected num_tokens, {line.num_tokens}"
        )
    if line.num_tokens == 0:
        return
    routes = ids(f"{key}: top_indices", line.top_indices, "[num_tokens, topk]", padded=True)
    if routes.shape[1] != line.topk:
        raise InteropError(
            f"{key}: top_indices has {routes.shape[1]} ids a token, expected topk, {line.topk}"
        )
    yield Observation(f"{key}: top_indices", line.layer, line.rank, routes=routes)
