"""The safetensors format, as far as bytes are moved without being looked at.

An expert travels and lies as one safetensors file: eight bytes of little-endian header length, the header in
JSON, the tensors' bytes back to back. The library reads tensors; here only their places are needed, so that
an expert can be cut out of a checkpoint without copying it, whatever its types (numpy has no bfloat16).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

EXPERT_FORMAT = "moeplace-expert/1"

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The library's own limit."""

_ALIGNMENT = 8


class MalformedFile(ValueError):
    """Not a whole safetensors file; says what is wrong with it."""


class Tensor(NamedTuple):
    """What a file says of one tensor. `begin` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    bytes: int


@dataclass(frozen=True)
class Contents:
    """The header of a file that is as long as it says."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    data_bytes: int
    """Of all tensors together: what they take in memory."""


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_contents(path: Path) -> Contents:
    """The header of `path`, checked: the tensors fill the rest of the file without gap or overlap.

    Raises `MalformedFile`, also where the file is cut short, and OSError.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise MalformedFile(f"{path.name}: its {size} bytes are less than its header says")
        raw = file.read(length)
    try:
        fields: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
        metadata = msgspec.convert(fields.pop("__metadata__", {}), dict[str, str])
        entries = msgspec.convert(fields, dict[str, _Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedFile(f"{path.name}: its header cannot be read: {error}") from None
    start = _LENGTH_BYTES + length
    spans = sorted(entry.data_offsets for entry in entries.values())
    ends = [0, *(end for _, end in spans)]
    if any(begin != end for (begin, _), end in zip(spans, ends, strict=False)) or any(
        after < before for before, after in pairwise(ends)
    ):
        raise MalformedFile(f"{path.name}: its tensors have gaps or overlap")
    if start + ends[-1] != size:
        raise MalformedFile(f"{path.name}: has {size} bytes, its header says {start + ends[-1]}")
    return Contents(
        {
            name: Tensor(
                entry.dtype,
                tuple(entry.shape),
                start + entry.data_offsets[0],
                entry.data_offsets[1] - entry.data_offsets[0],
            )
            for name, entry in entries.items()
        },
        metadata,
        ends[-1],
    )


class ExpertTensor(NamedTuple):
    """One tensor of an expert, as it will stand in the expert's file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def file_order(tensors: Sequence[ExpertTensor]) -> list[ExpertTensor]:
    """Wide types first, so that each tensor is aligned; by name among equals."""
    return sorted(tensors, key=lambda tensor: (-_width(tensor.dtype), tensor.name))


def expert_head(layer: int, expert: int, tensors: Sequence[ExpertTensor]) -> bytes:
    """Everything of an expert's file before the tensors' bytes, which follow in the order given.

    The same for the same arguments always: the digest of a file depends on nothing else. Layer and expert are
    in it, so that no expert passes for another that happens to have the same weights.
    """
    header: dict[str, Any] = {
        "__metadata__": {"format": EXPERT_FORMAT, "layer": str(layer), "expert": str(expert)}
    }
    at = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.bytes],
        }
        at += tensor.bytes
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded


def _width(dtype: str) -> int:
    """Bytes of a value: the number in the type's name, in bits."""
    digits = dtype.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ").split("_")[0]
    return max(1, int(digits) // 8) if digits.isdecimal() else 1
