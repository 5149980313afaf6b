"""Ids as they come: numpy arrays, lists, or torch tensors on any device. torch itself is never imported here:
who hands in a tensor has done so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt


class DeviceCopy:
    """Ids on their way from a GPU into pinned memory. Nobody waits: neither the host for the GPU nor the GPU
    for the host."""

    def __init__(self, ids: Any) -> None:
        torch = sys.modules["torch"]
        self._host = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
        self._host.copy_(ids.detach(), non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record(torch.cuda.current_stream(ids.device))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._host.shape)

    @property
    def arrived(self) -> bool:
        return bool(self._done.query())

    def wait(self) -> npt.NDArray[Any]:
        self._done.synchronize()
        array: npt.NDArray[Any] = self._host.numpy()
        return array


def is_tensor(ids: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(ids, torch.Tensor)


@cache
def _whole_numbers() -> frozenset[Any]:
    torch = sys.modules["torch"]
    names = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    return frozenset(getattr(torch, name) for name in names)


def here(ids: Any) -> Any:
    """An array wherever it can be had without waiting (it may share the caller's memory); tensors on a GPU
    stay what they are.

    Raises TypeError where they are no whole numbers.
    """
    if type(ids) is not np.ndarray:
        if is_tensor(ids):
            if ids.dtype not in _whole_numbers():
                raise TypeError(f"ids have type {ids.dtype}, expected whole numbers")
            if ids.is_cpu:
                return ids.numpy()
            return ids if ids.is_cuda else ids.cpu().numpy()
        ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids have type {ids.dtype}, expected whole numbers")
    return ids


def arrive(ids: Any) -> npt.NDArray[Any] | DeviceCopy:
    """What `here` gives, or a copy under way from a GPU."""
    ids = here(ids)
    if isinstance(ids, np.ndarray):
        return ids
    return DeviceCopy(ids)


def side_by_side(layers: Sequence[Any], top_k: int) -> Any:
    """The ids [tokens, k] of each layer, as `here` gives them, as one [tokens, layers, top_k]; -1 where a
    layer has fewer. A tensor where one of them is."""
    tokens = layers[0].shape[0]
    if any(not isinstance(ids, np.ndarray) for ids in layers):
        torch = sys.modules["torch"]
        device = next(ids.device for ids in layers if is_tensor(ids))  # they may be spread over devices
        moved = [torch.as_tensor(ids).to(device, torch.int64, non_blocking=True) for ids in layers]
        pad = torch.nn.functional.pad
        return torch.stack([pad(ids, (0, top_k - ids.shape[1]), value=-1) for ids in moved], dim=1)
    if all(ids.shape[1] == top_k for ids in layers):
        return np.concatenate(layers, axis=1).reshape(tokens, len(layers), top_k)
    wide = np.full((tokens, len(layers), top_k), -1, np.int64)
    for at, ids in enumerate(layers):
        wide[:, at, : ids.shape[1]] = ids
    return wide


def one_after_another(parts: Sequence[Any]) -> Any:
    """The tokens of all parts, in order; a tensor where all are.

    Raises ValueError where they don't go together.
    """
    first = parts[0]
    if is_tensor(first) and all(
        is_tensor(part) and (part.dtype, part.device) == (first.dtype, first.device) for part in parts
    ):
        if any(part.shape[1:] != first.shape[1:] for part in parts):
            raise ValueError("shapes differ")
        return sys.modules["torch"].cat(list(parts))
    try:
        return np.concatenate([here(part) for part in parts])
    except TypeError as error:
        raise ValueError(str(error)) from None


def nothing(ids: Any) -> Any:
    """-1 for as many tokens as `ids` has, once each, where `ids` is."""
    if is_tensor(ids):
        return sys.modules["torch"].full((ids.shape[0], 1), -1, device=ids.device)
    return np.full((len(ids), 1), -1)


def without(ids: Any, keep: Any) -> Any:
    """`ids` less the tokens for which `keep` bool[tokens] is false; on a device they become -1, since their
    number would have to be waited for.

    Raises ValueError where `keep` has another length.
    """
    if tuple(keep.shape) != (ids.shape[0],):
        raise ValueError(f"keep: has shape {tuple(keep.shape)}, expected ({ids.shape[0]},)")
    if is_tensor(ids):
        torch = sys.modules["torch"]
        drop = ~torch.as_tensor(keep, device=ids.device).bool()
        return ids.long().masked_fill(drop.reshape(-1, *[1] * (ids.ndim - 1)), -1)
    return np.asarray(ids)[np.asarray(keep).astype(bool)]
