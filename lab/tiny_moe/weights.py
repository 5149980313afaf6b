"""The weights of tiny-moe, as float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lab.tiny_moe.shape import LAYERS

Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]


class Expert(NamedTuple):
    """gelu(hidden @ up) @ down, with up float32[128, 192] and down float32[192, 128]."""

    up: Float32
    down: Float32


@dataclass(frozen=True)
class DenseLayer:
    """What every node has of a layer: all but its experts. Matrices are [in, out]."""

    attention_norm: Float32
    qkv: Float32
    out: Float32
    experts_norm: Float32
    router: Float32


@dataclass(frozen=True)
class Dense:
    """What every node has of the model."""

    embedding: Float32
    positions: Float32
    layers: tuple[DenseLayer, ...]
    norm: Float32
    head: Float32


def dense_weights() -> Dense:
    """Of the bundled model, without reading the experts."""
    return dense(_read(lambda name: ".experts." not in name))


@cache
def tensors() -> Mapping[str, Float16]:
    """All tensors by the names under which they were trained, in float16; an expert's are
    `layers.{l}.experts.{e}.w1` and `w2`."""
    return _read(lambda _: True)


def _read(wanted: Callable[[str], bool]) -> dict[str, Float16]:
    with (
        resources.as_file(resources.files("lab.tiny_moe") / "weights.npz") as path,
        np.load(path, allow_pickle=False) as packed,
    ):
        return {
            name: (packed[name] * packed[f"{name}.step"]).astype(np.float16)
            if f"{name}.step" in packed.files
            else packed[name]
            for name in packed.files
            if not name.endswith(".step") and wanted(name)
        }


def dense(named: Mapping[str, npt.NDArray[np.float16]]) -> Dense:
    """The non-expert weights among `named`; KeyError names one that is missing."""

    def vector(name: str) -> Float32:
        return named[f"{name}.weight"].astype(np.float32)

    def matrix(name: str) -> Float32:
        return np.ascontiguousarray(vector(name).T)

    return Dense(
        embedding=vector("emb"),
        positions=vector("pos"),
        layers=tuple(
            DenseLayer(
                attention_norm=vector(f"layers.{layer}.n1"),
                qkv=matrix(f"layers.{layer}.qkv"),
                out=matrix(f"layers.{layer}.o"),
                experts_norm=vector(f"layers.{layer}.n2"),
                router=matrix(f"layers.{layer}.router"),
            )
            for layer in range(LAYERS)
        ),
        norm=vector("nf"),
        head=matrix("head"),
    )


def expert(named: Mapping[str, npt.NDArray[np.float16]], layer: int, number: int) -> Expert:
    """One expert among `named`; KeyError names it where it is missing."""
    prefix = f"layers.{layer}.experts.{number}."
    return Expert(named[f"{prefix}w1"].astype(np.float32), named[f"{prefix}w2"].astype(np.float32))
