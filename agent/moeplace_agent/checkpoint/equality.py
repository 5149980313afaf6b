"""Whether the experts of a layer are alike enough that none of them has lost a part.

Quantizers leave experts of one layer with different tensors: ModelOpt leaves out the scale of inputs that
never came, bitsandbytes describes each matrix in a text whose length varies, mixed precision gives some
experts more bits or none. Such experts are served, and the layer counts with the size of its largest. A
matrix that one expert has and another has not is a loss, and so is a scale that is missing beside a matrix
stored in the same type.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from moeplace_agent.checkpoint.shards import CheckpointError
from moeplace_agent.experts.safetensors import ExpertTensor


def check_alike(directory: Path, layer: int, experts: Sequence[tuple[ExpertTensor, ...]]) -> None:
    """`experts`: the tensors of each expert of `layer`. Raises `CheckpointError`, which names what is
    missing."""
    if len(set(experts)) == 1:
        return
    # Matrix -> each way in which its tensors are, with the first expert that has them so.
    forms: dict[str, dict[tuple[ExpertTensor, ...], int]] = {}
    modules = [_modules(tensors) for tensors in experts]
    for expert, found in enumerate(modules):
        for name, tensors in found.items():
            forms.setdefault(name, {}).setdefault(tensors, expert)
    for name, ways in forms.items():
        for expert, found in enumerate(modules):
            if name not in found:
                raise _missing(directory, layer, expert, f"{name}.*", next(iter(ways.values())))
        for (mine, expert), (theirs, other) in itertools.permutations(ways.items(), 2):
            lost = _lost(mine, theirs)
            if lost is not None:
                raise _missing(directory, layer, expert, lost, other)


def _modules(tensors: Sequence[ExpertTensor]) -> dict[str, tuple[ExpertTensor, ...]]:
    """The tensors of an expert by the matrix that they belong to."""
    found: dict[str, list[ExpertTensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.name.partition(".")[0], []).append(tensor)
    return {name: tuple(each) for name, each in found.items()}


def _lost(mine: Sequence[ExpertTensor], theirs: Sequence[ExpertTensor]) -> str | None:
    """A tensor of theirs that mine lacks although both are stored in the same type."""
    types = {tensor.name: tensor.dtype for tensor in mine}
    if not any(types.get(tensor.name) == tensor.dtype for tensor in theirs):
        return None
    return next((t.name for t in theirs if t.name not in types and ".input" not in t.name), None)


def _missing(directory: Path, layer: int, expert: int, name: str, other: int) -> CheckpointError:
    return CheckpointError(
        f"{directory}: expert {expert} of layer {layer} has no {name}, which expert {other} has"
    )
