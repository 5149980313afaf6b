"""Ids as they come: numpy arrays, lists, or torch tensors on any device. torch itself is never imported here:
who hands in a tensor has done so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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


def arrive(ids: Any) -> npt.NDArray[Any] | DeviceCopy:
    """Whole numbers as an array (which may share the caller's memory) or on their way to become one.

    Raises TypeError for other types.
    """
    if not is_tensor(ids):
        array = np.asarray(ids)
        if array.dtype.kind not in "iu":
            raise TypeError(f"ids have type {array.dtype}, expected whole numbers")
        return array
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == sys.modules["torch"].bool:
        raise TypeError(f"ids have type {ids.dtype}, expected whole numbers")
    if ids.is_cuda:
        return DeviceCopy(ids)
    host: npt.NDArray[Any] = ids.detach().cpu().numpy()
    return host


def stacked(layers: Sequence[Any], top_k: int) -> Any:
    """The ids [tokens, k] of each layer as one [tokens, layers, top_k], -1 where a layer has fewer; a tensor
    where they are tensors, on their device."""
    if all(map(is_tensor, layers)):
        torch = sys.modules["torch"]
        device = layers[0].device  # layers may be spread over devices
        if all(ids.shape[1] == top_k for ids in layers):
            return torch.stack([ids.detach().to(device, non_blocking=True) for ids in layers], dim=1)
        pad = torch.nn.functional.pad
        moved = (ids.detach().to(device, torch.int64, non_blocking=True) for ids in layers)
        return torch.stack([pad(ids, (0, top_k - ids.shape[1]), value=-1) for ids in moved], dim=1)
    arrays = [ids.cpu().numpy() if is_tensor(ids) else np.asarray(ids) for ids in layers]
    if all(ids.shape[1] == top_k for ids in arrays):
        return np.stack(arrays, axis=1)
    wide = np.full((len(arrays[0]), len(arrays), top_k), -1, np.int64)
    for at, ids in enumerate(arrays):
        wide[:, at, : ids.shape[1]] = ids
    return wide


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
