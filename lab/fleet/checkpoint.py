"""tiny-moe as a Hugging Face checkpoint, so that it can be the origin of a fleet like any other model."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from lab.tiny_moe.shape import EXPERTS, INNER, LAYERS, TOP_K, WIDTH
from lab.tiny_moe.weights import Expert, tensors

_EXPERT = re.compile(r"layers\.(\d+)\.experts\.(\d+)\.(w\d)")


def write_checkpoint(directory: Path) -> None:
    """config.json and model.safetensors, the experts named as Mixtral's are."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "tiny-moe",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": TOP_K,
    }
    (directory / "config.json").write_bytes(msgspec.json.encode(config))
    named: dict[str, npt.NDArray[np.float16]] = {}
    for name, tensor in tensors().items():
        found = _EXPERT.fullmatch(name)
        if found is None:
            named[f"model.{name}"] = np.ascontiguousarray(tensor)
        else:
            layer, number, part = found.groups()
            named[f"model.layers.{layer}.block_sparse_moe.experts.{number}.{part}.weight"] = tensor
    save_file(named, directory / "model.safetensors")


def read_expert(file: Path) -> Expert:
    """An expert from the file it travels in."""
    named = load_file(file)
    return Expert(named["w1.weight"].astype(np.float32), named["w2.weight"].astype(np.float32))
