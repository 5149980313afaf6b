"""TensorRT-LLM's expert statistics (`EXPERT_STATISTIC_PATH`): a directory with a file per rank."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import safetensors

from moeplace_agent.interop.arrays import MAX_EXPERTS, counts
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_json
from moeplace_agent.interop.observations import Observation

_RANK_FILE = re.compile(r"rank(\d{1,6})\.safetensors")
_KEY = re.compile(r"(\d{1,12})_(\d{1,5})")


class _Meta(msgspec.Struct):
    num_experts: Annotated[int, msgspec.Meta(ge=1, le=MAX_EXPERTS)]
    num_experts_per_token: Annotated[int, msgspec.Meta(ge=1, le=MAX_EXPERTS)]


def read(path: Path) -> Iterator[Observation]:
    """`meta_info.json {num_experts, num_experts_per_token}` and `rank{r}.safetensors` with keys
    `{iteration}_{layer}`, int64 [experts], true layer numbers."""
    if not path.is_dir():
        raise InteropError("file: expected the directory that holds meta_info.json and rank0.safetensors")
    try:
        meta = read_json(path / "meta_info.json", _Meta)
    except InteropError as error:
        raise InteropError(f"meta_info.json: {error}") from None
    ranks = sorted(
        (int(named[1]), file) for file in path.iterdir() if (named := _RANK_FILE.fullmatch(file.name))
    )
    if not ranks:
        raise InteropError("rank0.safetensors: missing")
    for rank, file in ranks:
        yield from _read_rank(rank, file, meta.num_experts)


def _read_rank(rank: int, file: Path, experts: int) -> Iterator[Observation]:
    with file.open("rb"):
        pass  # a file that cannot be opened is the caller's OSError, not damage
    try:
        archive: Any = safetensors.safe_open(file, framework="numpy")
    except (safetensors.SafetensorError, OSError):
        raise InteropError(f"{file.name}: not a readable safetensors file") from None
    with archive:
        for name in archive.keys():  # noqa: SIM118 - no mapping
            key = f"{file.name}: {name!s:.60}"
            parts = _KEY.fullmatch(name)
            if parts is None:
                raise InteropError(f"{key}: expected a name such as 12_3, iteration and layer")
            try:
                values = archive.get_tensor(name)
            except (safetensors.SafetensorError, TypeError, ValueError):
                raise InteropError(f"{key}: has a type that is not a number") from None
            seen = counts(key, values, "[experts]")
            if len(seen) != experts:
                raise InteropError(
                    f"{key}: has {len(seen)} experts, expected {experts} as meta_info.json says"
                )
            yield Observation(key, int(parts[2]), rank, counts=seen, experts=experts)
