"""What of a saved model the tests need: its configuration, and names, types and shapes of its tensors.

Tensors of many layers and experts are told together: a name with # in place of numbers, and the numbers.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeplace_agent.experts.safetensors import read_contents

_OTHER_TOWERS = re.compile(r"vision|visual|audio|speech|code2wav")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|(?<=expert_)\d+(?=\.)")


def read_saved(directory: Path) -> tuple[dict[str, Any], list[list[Any]]]:
    """The configuration and the tensors, both without what they say of pictures and sound."""
    config = json.loads((directory / "config.json").read_text())
    tensors: dict[tuple[str, str, tuple[int, ...]], list[tuple[int, ...]]] = defaultdict(list)
    for path in sorted(directory.glob("*.safetensors")):
        for name, tensor in read_contents(path).tensors.items():
            if not _OTHER_TOWERS.search(name):
                numbers = tuple(map(int, _NUMBER.findall(name)))
                tensors[_NUMBER.sub("#", name), tensor.dtype, tensor.shape].append(numbers)
    rows = [[name, dtype, shape, part] for (name, dtype, shape), at in tensors.items() for part in _grids(at)]
    return _pruned(config), rows


def names_of(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, str, list[int]]]:
    """Every tensor: name, dtype, shape."""
    for name, dtype, shape, numbers in rows:
        for chosen in itertools.product(*numbers):
            parts = iter(chosen)
            yield re.sub("#", lambda _, parts=parts: str(next(parts)), name), dtype, shape  # type: ignore[misc]


def _grids(at: list[tuple[int, ...]]) -> Iterator[list[list[int]]]:
    """Tuples of numbers as products: all of them at once, or those of each first number."""
    axes = [sorted(set(axis)) for axis in zip(*at, strict=True)]
    if len(set(itertools.product(*axes))) == len(at):
        yield axes
        return
    for first in axes[0]:
        yield from _grids_of(first, [numbers for numbers in at if numbers[0] == first])


def _grids_of(first: int, at: list[tuple[int, ...]]) -> Iterator[list[list[int]]]:
    for grid in _grids([numbers[1:] for numbers in at]):
        yield [[first], *grid]


def _pruned(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _pruned(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if value is not None and not _OTHER_TOWERS.search(name) and name not in ("id2label", "label2id")
    }
