"""KTransformers' experts on the GPU of a node; the others it computes on its CPU."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import numpy as np
import numpy.typing as npt

from moeplace_agent.interop.arrays import field, whole
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex
from moeplace_agent.interop.placements import FleetPlacement, HeldSets
from moeplace_agent.interop.slots import one_size
from moeplace_agent.interop.tensors import read_pt, write_pt

KTRANSFORMERS = "KTransformers (sglang-kt 0.7.2)"


def write(path: Path, placement: FleetPlacement, ranks_per_node: int) -> dict[str, object]:
    """A directory with `<node>.pt` for each node: `{"logical_count": int64 [1, model layers, experts]}`, 1
    for the experts on its GPU, 0 for the others and in dense layers. The engine has no format for a
    placement: it puts the experts that were called most on the GPU, and those are the ones with a 1."""
    if ranks_per_node != 1:
        raise InteropError(f"ranks per node: are {ranks_per_node}, expected 1, a file is a node's")
    experts = one_size(placement)
    path.mkdir(exist_ok=True)
    files, commands = [], []
    for n, node in enumerate(placement.nodes):
        count = np.zeros((1, placement.moe.model_layers, experts), np.int64)
        for layer, held in zip(placement.moe.numbers, placement.holds, strict=True):
            count[0, layer] = held[n]
        file = path / f"{node}.pt"
        write_pt(file, {"logical_count": count})
        files.append(file.name)
        commands.append(
            f"{node}: python -m sglang.launch_server --model-path MODEL --kt-expert-placement-strategy "
            f"frequency {_number(int(count.sum()), len(placement.moe.numbers), experts)} "
            f"--init-expert-location {quote(str(file.absolute()))}"
        )
    return {
        "files": files,
        "shape": [1, placement.moe.model_layers, experts],
        "engine": "\n".join([f"{KTRANSFORMERS}, without --kt-enable-dynamic-expert-update:", *commands]),
    }


def _number(held: int, layers: int, experts: int) -> str:
    """How the engine is told how many experts its GPU holds: as many a layer on average, or, where that is no
    whole number, as a share of all of which it takes the whole part."""
    if held % layers == 0:
        return f"--kt-num-gpu-experts {held // layers}"
    return f"--kt-gpu-experts-ratio {(held + 0.5) / (layers * experts):.9f}"


def read_map(path: Path, nodes: int, ranks_per_node: int) -> HeldSets:
    """The files of a directory by the numbers of the nodes: `0.pt`, `1.pt` and so on."""
    if ranks_per_node != 1:
        raise InteropError(f"ranks per node: are {ranks_per_node}, expected 1, a file is a node's")
    found = {file.name for file in path.glob("*.pt")}
    files = [path / f"{n}.pt" for n in range(nodes)]
    if found != {file.name for file in files}:
        raise InteropError(f"file: expected a directory with a file per node, 0.pt to {nodes - 1}.pt")
    masks = [_mask(file) for file in files]
    for file, mask in zip(files, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InteropError(f"{file.name}: has shape {mask.shape}, expected {masks[0].shape}")
    held = np.stack(masks)
    return HeldSets(LayerIndex.MODEL, {layer: held[:, layer] for layer in range(held.shape[1])})


def _mask(file: Path) -> npt.NDArray[np.bool_]:
    try:
        count = whole("logical_count", field(read_pt(file), "logical_count"), "[1, layers, experts]")
        if len(count) != 1 or not np.isin(count, (0, 1)).all():
            raise InteropError("logical_count: expected one table of 0 and 1, 1 for what the GPU holds")
    except InteropError as error:
        raise InteropError(f"{file.name}: {error}") from None
    mask: npt.NDArray[np.bool_] = count[0] == 1
    return mask
