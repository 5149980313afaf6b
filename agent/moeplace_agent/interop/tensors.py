"""`.pt` files: read and written by torch, as data only; nothing in them is run."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.files import MAX_ARRAY_BYTES, Array, check_archive, write_whole


def read_pt(path: Path) -> Any:
    """What `torch.save` wrote, with tensors as numpy arrays: dicts, lists, numbers and text.

    `InteropError` where torch is absent, or the file holds anything but data or is too large.
    """
    check_archive(path)
    torch = _torch("reading")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, EOFError, KeyError, OSError):
        raise InteropError("file: not a readable .pt file of tensors and plain values") from None
    return _plain(loaded, torch, "file")


def write_pt(path: Path, arrays: Mapping[str, Array]) -> None:
    """A dict of tensors as `torch.save` writes it; the file whole, or as it was before. `InteropError` where
    torch is absent."""
    torch = _torch("writing")
    packed = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, packed)
    write_whole(path, packed.getvalue())


def _torch(doing: str) -> Any:
    try:
        import torch
    except ImportError:
        raise InteropError(
            f"file: {doing} .pt needs torch, which is not installed: pip install 'moeplace-agent[torch]'"
        ) from None
    return torch


def _plain(value: Any, torch: Any, key: str) -> Any:
    if isinstance(value, torch.Tensor):
        return _array(value, torch, key)
    if isinstance(value, dict):
        return {name: _plain(entry, torch, _below(key, name)) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [
            _plain(entry, torch, f"{'' if key == 'file' else key}[{at}]") for at, entry in enumerate(value)
        ]
    return value


def _below(key: str, name: object) -> str:
    return f"{name!s:.60}" if key == "file" else f"{key}.{name!s:.60}"


def _array(tensor: Any, torch: Any, key: str) -> Array:
    # a tensor may claim more elements than are stored, by strides of 0
    size = tensor.numel() * tensor.element_size()
    if size > MAX_ARRAY_BYTES:
        raise InteropError(
            f"{key}: has shape {tuple(tensor.shape)}, above the limit of {MAX_ARRAY_BYTES} bytes"
        )
    if tensor.is_sparse or tensor.is_quantized or tensor.is_complex():
        raise InteropError(f"{key}: is a tensor of {tensor.dtype}, expected plain numbers")
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    array: Array = tensor.detach().contiguous().numpy()
    return array
