"""SGLang's recorder as CSV: `layer_id,expert_id,count`, what is missing is 0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moeplace_agent.interop.arrays import MAX_EXPERTS
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_csv
from moeplace_agent.interop.layers import MAX_LAYERS
from moeplace_agent.interop.observations import Observation

_LIMITS = {"layer_id": MAX_LAYERS, "expert_id": MAX_EXPERTS, "count": 2**53}
_EXPECTED = f"the header {','.join(_LIMITS)}"


def read(path: Path) -> Iterator[Observation]:
    """The columns come in any order. Repeated lines of one expert add up."""
    rows = read_csv(path)
    if not rows:
        raise InteropError(f"line 1: expected {_EXPECTED}")
    columns = _columns(*rows[0])
    seen: dict[int, dict[int, int]] = {}
    for line, row in rows[1:]:
        layer, expert, count = _numbers(line, row, columns)
        of_layer = seen.setdefault(layer, {})
        of_layer[expert] = of_layer.get(expert, 0) + count
    experts = 1 + max((expert for of_layer in seen.values() for expert in of_layer), default=-1)
    for layer, of_layer in sorted(seen.items()):
        counts = np.zeros(experts)
        counts[list(of_layer)] = list(of_layer.values())
        yield Observation(f"layer_id {layer}", layer, counts=counts)


def _columns(line: int, header: list[str]) -> list[str]:
    """The names of the columns; one without a name, as of a table's index, is passed over."""
    if sorted(name for name in header if name) != sorted(_LIMITS):
        raise InteropError(f"line {line}: expected {_EXPECTED}, found {','.join(header)!r:.60}")
    return header


def _numbers(line: int, row: list[str], columns: list[str]) -> tuple[int, int, int]:
    if len(row) != len(columns):
        raise InteropError(f"line {line}: has {len(row)} fields, expected {','.join(columns)}")
    found = {}
    for name, text in zip(columns, row, strict=True):
        if not name:
            continue
        limit = _LIMITS[name]
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < limit):
            raise InteropError(f"line {line}: {name} is {text!r:.60}, expected a number in 0..{limit - 1}")
        found[name] = int(text)
    return found["layer_id"], found["expert_id"], found["count"]
