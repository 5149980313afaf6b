"""SGLang's recorder in `stat` mode: one `.pt` for the whole deployment, counts of its last steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moeplace_agent.interop.arrays import counts, field
from moeplace_agent.interop.observations import Observation, rows_of
from moeplace_agent.interop.tensors import read_pt


def read(path: Path) -> Iterator[Observation]:
    """`{rank, logical_count [steps, layers, experts], average_utilization_rate_over_window}`. The counts are
    summed over all ranks before rank 0 writes them, so its `rank` says nothing of who saw them."""
    steps = counts("logical_count", field(read_pt(path), "logical_count"), "[steps, layers, experts]")
    yield from rows_of("logical_count", steps.sum(axis=0))
