"""KTransformers' masks: which experts a node keeps on its GPU; the others it computes on its CPU."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from agent.interop.faults import InteropError
from agent.interop.files import read_npy, write_whole
from agent.interop.layers import LayerIndex
from agent.interop.placements import FleetPlacement, HeldSets
from agent.interop.slots import one_size


def write(path: Path, placement: FleetPlacement, ranks_per_node: int) -> dict[str, object]:
    """A directory with `<node>.npy` for each node: bool [model layers, experts], dense layers False."""
    if ranks_per_node != 1:
        raise InteropError(f"ranks per node: are {ranks_per_node}, expected 1, a mask is a node's")
    experts = one_size(placement)
    path.mkdir(exist_ok=True)
    files = []
    for n, node in enumerate(placement.nodes):
        mask = np.zeros((placement.moe.model_layers, experts), np.bool_)
        for layer, held in zip(placement.moe.numbers, placement.holds, strict=True):
            mask[layer] = held[n]
        packed = io.BytesIO()
        np.save(packed, mask)
        write_whole(path / f"{node}.npy", packed.getvalue())
        files.append(f"{node}.npy")
    return {"files": files, "shape": [placement.moe.model_layers, experts]}


def read_map(path: Path, nodes: int, ranks_per_node: int) -> HeldSets:
    """The masks of a directory by the numbers of the nodes: `0.npy`, `1.npy` and so on."""
    if ranks_per_node != 1:
        raise InteropError(f"ranks per node: are {ranks_per_node}, expected 1, a mask is a node's")
    found = {file.name for file in path.glob("*.npy")}
    files = [path / f"{n}.npy" for n in range(nodes)]
    if found != {file.name for file in files}:
        raise InteropError(f"file: expected a directory with the masks of nodes 0.npy to {nodes - 1}.npy")
    masks = [_mask(file) for file in files]
    for file, mask in zip(files, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InteropError(f"{file.name}: has shape {mask.shape}, expected {masks[0].shape}")
    held = np.stack(masks)
    return HeldSets(LayerIndex.MODEL, {layer: held[:, layer] for layer in range(held.shape[1])})


def _mask(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    try:
        mask = read_npy(file)
    except InteropError as error:
        raise InteropError(f"{file.name}: {error}") from None
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InteropError(f"{file.name}: has type {mask.dtype} and shape {mask.shape}, expected bool [L, E]")
    return mask
