"""Arrays as files hold them, checked against the shape their format documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moeplace_agent.interop.faults import InteropError

Counts = npt.NDArray[np.float64]
"""Activations or weights: every whole number up to 2**53 is exact."""
Ids = npt.NDArray[np.int64]

MAX_COUNT = 2**53
MAX_EXPERTS = 4096
"""Of a layer, as the service takes them."""


def field(values: Any, key: str) -> Any:
    """The entry of a dict out of a file, which may be of any kind."""
    if not isinstance(values, dict):
        raise InteropError(f"file: is a {type(values).__name__}, expected a dict with {key}")
    if key not in values:
        raise InteropError(f"{key}: missing")
    return values[key]


def counts(key: str, values: Any, shape: str) -> Counts:
    """Numbers of 0 to `MAX_COUNT` with as many dimensions as `shape` names, such as `[layers, experts]`."""
    array = _numbers(key, values, shape, "biuf").astype(np.float64)
    _each(key, array, (array >= 0) & (array <= MAX_COUNT), "a number in 0..2**53")
    return array


def whole(key: str, values: Any, shape: str) -> Ids:
    """Whole numbers with as many dimensions as `shape` names."""
    return _numbers(key, values, shape, "iu").astype(np.int64)


def ids(key: str, values: Any, shape: str, *, padded: bool = False) -> Ids:
    """Ids of experts, [..., k]: from 0, or from -1 where the format pads. -1 in an unsigned type is the
    largest number of the type; of uint8 that is an expert, too, and stays what it is."""
    array = _numbers(key, values, shape, "iu")
    if padded and array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = np.where(array == np.iinfo(array.dtype).max, -1, array.astype(np.int64))
    array = array.astype(np.int64)
    low = -1 if padded else 0
    good = (array >= low) & (array < MAX_EXPERTS)
    _each(key, array, good, f"an expert in {low}..{MAX_EXPERTS - 1}")
    return array


def below(key: str, array: Ids, limit: int) -> None:
    """Refuses ids of experts that there are not."""
    _each(key, array, array < limit, f"less than the {limit} experts there are")


def _numbers(key: str, values: Any, shape: str, kinds: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        raise InteropError(f"{key}: has rows of different lengths, expected {shape}") from None
    if array.ndim != shape.count(",") + 1:
        raise InteropError(f"{key}: has shape {array.shape}, expected {shape}")
    if array.size and array.dtype.kind not in kinds:
        expected = "numbers" if "f" in kinds else "whole numbers"
        raise InteropError(f"{key}: has type {array.dtype}, expected {expected}")
    return array


def _each(key: str, array: npt.NDArray[Any], good: npt.NDArray[np.bool_], expected: str) -> None:
    if good.all():
        return
    index = np.unravel_index(int(np.argmin(good)), good.shape)
    place = ",".join(str(int(i)) for i in index)
    raise InteropError(f"{key}[{place}]: is {array[index]}, expected {expected}")
