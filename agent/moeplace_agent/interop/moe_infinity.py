"""MoE-Infinity's traces: how often each sequence activated each expert."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moeplace_agent.interop.arrays import counts
from moeplace_agent.interop.files import read_npy
from moeplace_agent.interop.observations import Observation, rows_of


def read(path: Path) -> Iterator[Observation]:
    """`.npy` [sequences, layers, experts]; rows of sequences that were not used are 0."""
    table = counts("array", read_npy(path), "[sequences, layers, experts]").sum(axis=0)
    yield from rows_of("array", table)
