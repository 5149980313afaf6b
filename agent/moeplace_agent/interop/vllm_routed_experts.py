"""vLLM's `--enable-return-routed-experts`: an array per request, saved as `.npy`, or many in an `.npz`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moeplace_agent.interop.arrays import Ids, ids
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import read_npy, read_npz
from moeplace_agent.interop.observations import Observation


def read(path: Path) -> Iterator[Observation]:
    """[tokens, layers, k] of any type of whole numbers per request.

    vLLM has a row for every layer of the model, and those of dense layers are 0. Where a token has more than
    one expert, 0 and no other id is no route, nor is 255 and no other (-1 as uint8). Where it has one expert,
    a layer of zeros is marked as `maybe_dense`, and 255 as `maybe_none`.
    """
    requests = read_npz(path) if path.suffix == ".npz" else {"array": read_npy(path)}
    if not requests:
        raise InteropError("file: no array in it")
    for key, array in requests.items():
        tokens = ids(key, array, "[tokens, layers, k]", padded=True)
        layers, k = tokens.shape[1:]
        if k > 1:
            tokens = _without_fillers(tokens, array.dtype == np.uint8)
        for layer in range(layers):
            routes = tokens[:, layer]
            zeros = k == 1 and not routes.any()
            yield Observation(
                f"{key}[:,{layer}]",
                layer,
                routes=routes,
                layers=layers,
                maybe_dense=zeros,
                maybe_none=np.iinfo(np.uint8).max if array.dtype == np.uint8 else None,
            )


def _without_fillers(tokens: Ids, bytes_wide: bool) -> Ids:
    filler = (tokens == 0).all(axis=2)
    if bytes_wide:
        filler |= (tokens == np.iinfo(np.uint8).max).all(axis=2)
    return np.where(filler[:, :, None], -1, tokens)
