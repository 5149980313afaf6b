"""The weights that EPLB balances by: how much each expert is called, on any scale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moeplace_agent.interop.arrays import counts
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_csv, read_npy
from moeplace_agent.interop.observations import Observation, rows_of
from moeplace_agent.interop.tensors import read_pt

_READERS = ".npy, .csv or .pt"


def read(path: Path) -> Iterator[Observation]:
    """[layers, experts] in `.npy`, `.pt`, or `.csv` without a header."""
    key: str
    values: Any
    match path.suffix:
        case ".npy":
            key, values = "array", read_npy(path)
        case ".pt":
            key, values = "tensor", read_pt(path)
        case ".csv":
            key, values = "rows", _csv(path)
        case other:
            raise InteropError(f"file: ends in {other!r:.20}, expected {_READERS}")
    yield from rows_of(key, counts(key, values, "[layers, experts]"))


def _csv(path: Path) -> list[list[float]]:
    rows: list[list[float]] = []
    for line, row in read_csv(path):
        rows.append([_number(line, at, text) for at, text in enumerate(row)])
        if len(rows[-1]) != len(rows[0]):
            raise InteropError(f"line {line}: has {len(rows[-1])} experts, expected {len(rows[0])}")
    return rows


def _number(line: int, at: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InteropError(f"line {line}, column {at + 1}: is {text!r:.60}, expected a number") from None
