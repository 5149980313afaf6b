"""vLLM's `--enable-return-routed-experts`: an array per request, saved as `.npy`, or many in an `.npz`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.interop.arrays import ids
from agent.interop.faults import InteropError
from agent.interop.files import read_npy, read_npz
from agent.interop.observations import Observation


def read(path: Path) -> Iterator[Observation]:
    """int16 [tokens, MoE layers, k] per request."""
    requests = read_npz(path) if path.suffix == ".npz" else {"array": read_npy(path)}
    if not requests:
        raise InteropError("file: no array in it")
    for key, array in requests.items():
        tokens = ids(key, array, "[tokens, MoE layers, k]")
        for layer in range(tokens.shape[1]):
            yield Observation(f"{key}[:,{layer}]", layer, routes=tokens[:, layer])
