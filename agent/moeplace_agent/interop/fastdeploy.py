"""FastDeploy's answer to `POST /get_per_expert_tokens_stats`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from moeplace_agent.interop.arrays import counts
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_json
from moeplace_agent.interop.observations import Observation, rows_of


class _Answer(msgspec.Struct):
    code: int
    msg: str = ""
    data: list[list[list[float]]] = []


def read(path: Path) -> Iterator[Observation]:
    """`{code, msg, data}`: data by tensor-parallel rank of the server that was asked, each
    [layers][experts] over all layers of the model, dense ones 0. The ranks' counts add up."""
    answer = read_json(path, _Answer)
    if answer.code != 0:
        raise InteropError(f"code: is {answer.code}, expected 0; the server said {answer.msg!r:.100}")
    if not answer.data:
        raise InteropError("data: is empty, expected a table per rank")
    for rank, table in enumerate(answer.data):
        key = f"data[{rank}]"
        yield from rows_of(key, counts(key, table, "[layers, experts]"), rank)
