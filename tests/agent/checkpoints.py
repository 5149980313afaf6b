"""Tiny checkpoints in the layouts that published ones have, by their documented names and shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

SINGLE = "model.safetensors"
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "uint8": 1}

HIDDEN, INTERMEDIATE, EXPERTS, LAYERS = 64, 32, 4, 3


@dataclass
class Tensors:
    """Random bytes under names. `entries`: (layer, expert, name within the expert) -> its bytes."""

    dtype: str = "bfloat16"
    written: dict[str, tuple[str, tuple[int, ...], npt.NDArray[np.uint8]]] = field(default_factory=dict)
    entries: dict[tuple[int, int, str], bytes] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def add(self, name: str, *shape: int, dtype: str | None = None) -> npt.NDArray[np.uint8]:
        dtype = dtype or self.dtype
        data = self.random.integers(0, 255, (*shape[:-1], shape[-1] * WIDTHS[dtype]), np.uint8)
        self.written[name] = (dtype, shape, data)
        return data

    def separate(self, layer: int, expert: int, prefix: str, name: str, *shape: int, **kind: str) -> None:
        self.entries[layer, expert, name] = self.add(f"{prefix}.{name}", *shape, **kind).tobytes()

    def fused(self, layer: int, prefix: str, name: str, *shape: int, **kind: str) -> None:
        data = self.add(f"{prefix}.{name}", EXPERTS, *shape, **kind)
        for expert in range(EXPERTS):
            self.entries[layer, expert, name] = data[expert].tobytes()

    def rest(self, layers: int = LAYERS, router: str = "mlp.gate.weight") -> None:
        """What is no expert: embeddings, attention, routers."""
        self.add("model.embed_tokens.weight", 16, HIDDEN)
        for layer in range(layers):
            self.add(f"model.layers.{layer}.self_attn.q_proj.weight", HIDDEN, HIDDEN)
            self.add(f"model.layers.{layer}.{router}", EXPERTS, HIDDEN)


@dataclass(frozen=True)
class Made:
    """A checkpoint and what must be found in it. `names`: the tensors of one expert."""

    config: Mapping[str, Any]
    tensors: Tensors
    moe_layers: tuple[int, ...]


def base(model_type: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_experts_per_tok": 2,
        "torch_dtype": "bfloat16",
    } | more


def mixtral(model_type: str = "mixtral", *, hidden: int = HIDDEN, intermediate: int = INTERMEDIATE) -> Made:
    config = base(model_type, hidden_size=hidden, intermediate_size=intermediate, num_local_experts=EXPERTS)
    tensors = Tensors()
    tensors.rest(router="block_sparse_moe.gate.weight")
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}"
            tensors.separate(layer, expert, prefix, "w1.weight", intermediate, hidden)
            tensors.separate(layer, expert, prefix, "w2.weight", hidden, intermediate)
            tensors.separate(layer, expert, prefix, "w3.weight", intermediate, hidden)
    return Made(config, tensors, (0, 1, 2))


def _gated(tensors: Tensors, layers: tuple[int, ...], *, fp8: bool = False) -> None:
    for layer in layers:
        for expert in range(EXPERTS):
            prefix = f"model.layers.{layer}.mlp.experts.{expert}"
            for name, shape in (
                ("gate_proj", (INTERMEDIATE, HIDDEN)),
                ("up_proj", (INTERMEDIATE, HIDDEN)),
                ("down_proj", (HIDDEN, INTERMEDIATE)),
            ):
                kind = {"dtype": "float8_e4m3fn"} if fp8 else {}
                tensors.separate(layer, expert, prefix, f"{name}.weight", *shape, **kind)
                if fp8:
                    scale = f"{name}.weight_scale_inv"
                    tensors.separate(layer, expert, prefix, scale, 1, 1, dtype="float32")


def qwen(model_type: str) -> Made:
    config = base(
        model_type,
        moe_intermediate_size=INTERMEDIATE,
        num_experts=EXPERTS,
        decoder_sparse_step=1,
        mlp_only_layers=[1],
    )
    tensors = Tensors()
    tensors.rest()
    _gated(tensors, (0, 2))
    for layer in (0, 2):
        tensors.add(f"model.layers.{layer}.mlp.shared_expert.gate_proj.weight", 2 * INTERMEDIATE, HIDDEN)
        tensors.add(f"model.layers.{layer}.mlp.shared_expert_gate.weight", 1, HIDDEN)
    for name in ("gate_proj", "up_proj", "down_proj"):
        tensors.add(f"model.layers.1.mlp.{name}.weight", INTERMEDIATE, HIDDEN)
    return Made(config, tensors, (0, 2))


def olmoe() -> Made:
    config = base("olmoe", intermediate_size=INTERMEDIATE, num_experts=EXPERTS)
    tensors = Tensors()
    tensors.rest()
    _gated(tensors, (0, 1, 2))
    return Made(config, tensors, (0, 1, 2))


def deepseek(model_type: str, *, fp8: bool) -> Made:
    """With a dense first layer, shared experts, and the module for multi-token prediction that V3 has."""
    config = base(
        model_type,
        moe_intermediate_size=INTERMEDIATE,
        n_routed_experts=EXPERTS,
        n_shared_experts=1,
        first_k_dense_replace=1,
        moe_layer_freq=1,
    )
    if fp8:
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        config["num_nextn_predict_layers"] = 1
    tensors = Tensors()
    tensors.rest()
    for name in ("gate_proj", "up_proj", "down_proj"):
        tensors.add(f"model.layers.0.mlp.{name}.weight", INTERMEDIATE, HIDDEN)
        tensors.add(f"model.layers.1.mlp.shared_experts.{name}.weight", INTERMEDIATE, HIDDEN)
    _gated(tensors, (1, 2), fp8=fp8)
    if fp8:
        tensors.add(f"model.layers.{LAYERS}.eh_proj.weight", HIDDEN, 2 * HIDDEN)
        for expert in range(EXPERTS):
            name = f"model.layers.{LAYERS}.mlp.experts.{expert}.gate_proj.weight"
            tensors.add(name, INTERMEDIATE, HIDDEN, dtype="float8_e4m3fn")
    return Made(config, tensors, (1, 2))


def gpt_oss(*, mxfp4: bool) -> Made:
    config = base("gpt_oss", intermediate_size=INTERMEDIATE, num_local_experts=EXPERTS)
    tensors = Tensors()
    tensors.rest(router="mlp.router.weight")
    if mxfp4:
        config["quantization_config"] = {"quant_method": "mxfp4"}
        del config["torch_dtype"]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}.mlp.experts"
        tensors.add(f"model.layers.{layer}.mlp.router.bias", EXPERTS)
        for name, rows, columns in (
            ("gate_up_proj", 2 * INTERMEDIATE, HIDDEN),
            ("down_proj", HIDDEN, INTERMEDIATE),
        ):
            if mxfp4:
                blocks = columns // 32
                tensors.fused(layer, prefix, f"{name}_blocks", rows, blocks, 16, dtype="uint8")
                tensors.fused(layer, prefix, f"{name}_scales", rows, blocks, dtype="uint8")
            else:
                tensors.fused(layer, prefix, name, columns, rows)
            tensors.fused(layer, prefix, f"{name}_bias", rows)
    return Made(config, tensors, (0, 1, 2))


def granite() -> Made:
    config = base("granitemoe", intermediate_size=INTERMEDIATE, num_local_experts=EXPERTS)
    tensors = Tensors()
    tensors.rest(router="block_sparse_moe.router.layer.weight")
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}.block_sparse_moe"
        tensors.fused(layer, prefix, "input_linear.weight", 2 * INTERMEDIATE, HIDDEN)
        tensors.fused(layer, prefix, "output_linear.weight", HIDDEN, INTERMEDIATE)
        tensors.add(f"model.layers.{layer}.shared_mlp.input_linear.weight", 2 * INTERMEDIATE, HIDDEN)
    return Made(config, tensors, (0, 1, 2))


def llama4() -> Made:
    text = base("llama4_text", intermediate_size=INTERMEDIATE, num_local_experts=EXPERTS)
    text["interleave_moe_layer_step"] = 2
    tensors = Tensors()
    for layer in range(LAYERS):
        tensors.add(f"language_model.model.layers.{layer}.self_attn.q_proj.weight", HIDDEN, HIDDEN)
        tensors.add(f"vision_model.model.layers.{layer}.mlp.fc1.weight", HIDDEN, HIDDEN)
    prefix = "language_model.model.layers.1.feed_forward.experts"
    tensors.fused(1, prefix, "gate_up_proj", HIDDEN, 2 * INTERMEDIATE)
    tensors.fused(1, prefix, "down_proj", INTERMEDIATE, HIDDEN)
    return Made({"model_type": "llama4", "torch_dtype": "bfloat16", "text_config": text}, tensors, (1,))


def transformers5(model_type: str) -> Made:
    """As transformers 5 has the experts in memory, and writes them when told not to convert them back."""
    made = qwen(model_type) if model_type.startswith("qwen") else olmoe()
    tensors = Tensors()
    tensors.rest()
    for layer in made.moe_layers:
        prefix = f"model.layers.{layer}.mlp.experts"
        tensors.fused(layer, prefix, "gate_up_proj", 2 * INTERMEDIATE, HIDDEN)
        tensors.fused(layer, prefix, "down_proj", HIDDEN, INTERMEDIATE)
    return Made(made.config, tensors, made.moe_layers)


LAYOUTS: dict[str, Made] = {
    "mixtral": mixtral(),
    "phimoe": mixtral("phimoe"),
    "qwen2_moe": qwen("qwen2_moe"),
    "qwen3_moe": qwen("qwen3_moe"),
    "olmoe": olmoe(),
    "deepseek_v2": deepseek("deepseek_v2", fp8=False),
    "deepseek_v3": deepseek("deepseek_v3", fp8=True),
    "kimi_k2": deepseek("kimi_k2", fp8=True),
    "gpt_oss": gpt_oss(mxfp4=False),
    "gpt_oss_mxfp4": gpt_oss(mxfp4=True),
    "granitemoe": granite(),
    "llama4": llama4(),
    "qwen3_moe_fused": transformers5("qwen3_moe"),
    "olmoe_fused": transformers5("olmoe"),
}


def write_checkpoint(directory: Path, made: Made, *, shards: int = 1) -> Path:
    """The files as `save_pretrained` leaves them; with several shards there is an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(made.config))
    if shards == 1:
        _write(directory / "model.safetensors", made.tensors, list(made.tensors.written))
        return directory
    weight_map = {}
    for number, names in enumerate(_dealt(list(made.tensors.written), shards), start=1):
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        _write(directory / file, made.tensors, names)
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


_WIDTHS = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1, "I32": 4, "I64": 8}

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def write_shapes(
    directory: Path, config: Mapping[str, Any] | str, tensors: Shapes, name: str = SINGLE
) -> Path:
    """A checkpoint with random bytes: `tensors` are names with safetensors' dtype and a shape."""
    directory.mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (directory / "config.json").write_text(text)
    write_file(directory / name, tensors)
    return directory


def write_file(path: Path, tensors: Shapes) -> None:
    random = np.random.default_rng(len(tensors))
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = _WIDTHS[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    encoded = json.dumps(header).encode()
    body = random.integers(0, 256, at, np.uint8).tobytes()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


def write_index(directory: Path, weight_map: Mapping[str, str]) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def experts_of(prefix: str, layers: Iterable[int], count: int, tensors: Shapes) -> dict[str, Any]:
    """`prefix` with {} for the layer; `tensors` of every expert below it."""
    return {
        f"{prefix.format(layer)}experts.{expert}.{name}": kind
        for layer in layers
        for expert in range(count)
        for name, kind in tensors.items()
    }


GATED: Shapes = {
    "gate_proj.weight": ("BF16", (8, 16)),
    "up_proj.weight": ("BF16", (8, 16)),
    "down_proj.weight": ("BF16", (16, 8)),
}


def _write(path: Path, tensors: Tensors, names: list[str]) -> None:
    specs = {}
    for name in names:
        dtype, shape, data = tensors.written[name]
        specs[name] = safetensors.TensorSpec(
            dtype=dtype, shape=shape, data_ptr=data.ctypes.data, data_len=data.nbytes
        )
    safetensors.serialize_file(specs, path, {"format": "pt"})


def _dealt(names: list[str], shards: int) -> Iterator[list[str]]:
    for number in range(shards):
        yield names[number::shards]
