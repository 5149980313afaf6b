"""SGLang's recorder as CSV: `layer_id,expert_id,count`, what is missing is 0."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent.interop.arrays import MAX_EXPERTS
from agent.interop.faults import InteropError
from agent.interop.files import read_bytes
from agent.interop.layers import MAX_LAYERS
from agent.interop.observations import Observation

_HEADER = ["layer_id", "expert_id", "count"]
_LIMITS = (MAX_LAYERS, MAX_EXPERTS, 2**53)


def read(path: Path) -> Iterator[Observation]:
    """Repeated lines of one expert add up."""
    try:
        lines = csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig"), newline=""), strict=True)
        rows = [(lines.line_num, row) for row in lines if row]
    except (csv.Error, UnicodeDecodeError):
        raise InteropError("file: not CSV in UTF-8") from None
    if not rows or [name.strip() for name in rows[0][1]] != _HEADER:
        raise InteropError(f"line 1: expected the header {','.join(_HEADER)}")
    seen: dict[int, dict[int, int]] = {}
    for line, row in rows[1:]:
        layer, expert, count = _numbers(line, row)
        of_layer = seen.setdefault(layer, {})
        of_layer[expert] = of_layer.get(expert, 0) + count
    experts = 1 + max((expert for of_layer in seen.values() for expert in of_layer), default=-1)
    for layer, of_layer in sorted(seen.items()):
        counts = np.zeros(experts)
        counts[list(of_layer)] = list(of_layer.values())
        yield Observation(f"layer_id {layer}", layer, counts=counts)


def _numbers(line: int, row: list[str]) -> tuple[int, int, int]:
    if len(row) != len(_HEADER):
        raise InteropError(f"line {line}: has {len(row)} fields, expected {','.join(_HEADER)}")
    numbers = []
    for name, text, limit in zip(_HEADER, row, _LIMITS, strict=True):
        text = text.strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < limit):
            raise InteropError(f"line {line}: {name} is {text!r:.60}, expected a number in 0..{limit - 1}")
        numbers.append(int(text))
    return numbers[0], numbers[1], numbers[2]
