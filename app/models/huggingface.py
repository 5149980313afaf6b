"""The MoE layers that a Hugging Face `config.json` describes.

Only architectures whose layout is known are read; a quantization whose bytes are not known is refused
rather than guessed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from app.errors import FieldError, InvalidRequest
from app.models.architecture import Architecture, Precision

ROOT = "/huggingface_config"
MAX_LAYERS = 256

_DTYPES = {
    "bfloat16": Precision.FLOAT16,
    "float16": Precision.FLOAT16,
    "half": Precision.FLOAT16,
    "float32": Precision.FLOAT32,
    "float": Precision.FLOAT32,
}


class _Config:
    """A JSON object whose faults are told by pointer."""

    def __init__(self, values: Mapping[str, Any], pointer: str = ROOT) -> None:
        self._values = values
        self.pointer = pointer

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def refuse(self, name: str, detail: str, code: str) -> InvalidRequest:
        place = f"{self.pointer}/{name}" if name else self.pointer
        return InvalidRequest(f"{place}: {detail}", errors=[FieldError(place, detail, code)])

    def number(self, name: str, *, low: int = 1, high: int = 1_000_000, default: int | None = None) -> int:
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(name, f"expected a whole number in {low}..{high}", "EXPECTED_INTEGER")
        return value

    def numbers(self, name: str) -> list[int]:
        value = self._values.get(name)
        if value is None:
            return []
        if (
            not isinstance(value, list)
            or len(value) > MAX_LAYERS
            or not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value)
        ):
            raise self.refuse(name, f"expected a list of at most {MAX_LAYERS} layer numbers", "EXPECTED_LIST")
        return value

    def object(self, name: str) -> "_Config | None":
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name, "expected an object", "EXPECTED_OBJECT")
        return _Config(value, f"{self.pointer}/{name}")


def read_config(config: Mapping[str, Any]) -> tuple[str, Architecture]:
    """Model type and architecture; `InvalidRequest` with a pointer where it cannot be told."""
    top = _Config(config)
    name = top.get("model_type")
    reader = _READERS.get(name) if isinstance(name, str) else None
    if reader is None or not isinstance(name, str):
        raise top.refuse("model_type", f"expected one of {', '.join(sorted(_READERS))}", "UNKNOWN_MODEL_TYPE")
    architecture = reader(top, _precision(top))
    if not architecture.layers:
        raise top.refuse("", "it describes no MoE layer", "NO_MOE_LAYER")
    if architecture.top_k > architecture.experts:
        detail = f"{architecture.top_k} experts per token of {architecture.experts}"
        raise top.refuse("", detail, "TOP_K_TOO_LARGE")
    return name, architecture


def _precision(top: _Config) -> Precision:
    quantization = top.object("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method")
        if method == "mxfp4":
            return Precision.MXFP4
        if method == "fp8" and quantization.get("weight_block_size") == [128, 128]:
            return Precision.FLOAT8_BLOCKS
        raise quantization.refuse(
            "quant_method",
            "the bytes of an expert are known for mxfp4, and for fp8 with weight_block_size [128, 128]; "
            "give blocks with expert_bytes instead",
            "UNKNOWN_QUANTIZATION",
        )
    text = top.object("text_config")
    for config in (top, text):
        for name in ("dtype", "torch_dtype"):
            value = config.get(name) if config is not None else None
            if isinstance(value, str) and value in _DTYPES:
                return _DTYPES[value]
    detail = f"expected one of {', '.join(_DTYPES)}; the bytes of an expert depend on it"
    raise top.refuse("torch_dtype", detail, "UNKNOWN_DTYPE")


def _layers(config: _Config) -> int:
    return config.number("num_hidden_layers", high=MAX_LAYERS)


def _mixtral(config: _Config, precision: Precision) -> Architecture:
    """Also PhiMoE, GraniteMoE and GPT-OSS: every layer is sparse, `intermediate_size` is the experts'."""
    return Architecture(
        config.number("hidden_size"),
        config.number("intermediate_size"),
        config.number("num_local_experts", high=4096),
        config.number("num_experts_per_tok", high=64),
        range(_layers(config)),
        precision,
    )


def _olmoe(config: _Config, precision: Precision) -> Architecture:
    return Architecture(
        config.number("hidden_size"),
        config.number("intermediate_size"),
        config.number("num_experts", high=4096),
        config.number("num_experts_per_tok", high=64),
        range(_layers(config)),
        precision,
    )


def _qwen(config: _Config, precision: Precision) -> Architecture:
    step = config.number("decoder_sparse_step", default=1, high=MAX_LAYERS)
    dense = set(config.numbers("mlp_only_layers"))
    return Architecture(
        config.number("hidden_size"),
        config.number("moe_intermediate_size"),
        config.number("num_experts", high=4096),
        config.number("num_experts_per_tok", high=64),
        [layer for layer in range(_layers(config)) if layer not in dense and (layer + 1) % step == 0],
        precision,
    )


def _deepseek(config: _Config, precision: Precision) -> Architecture:
    """Also Kimi K2, which is laid out as DeepSeek V3."""
    first = config.number("first_k_dense_replace", low=0, high=MAX_LAYERS, default=0)
    step = config.number("moe_layer_freq", default=1, high=MAX_LAYERS)
    return Architecture(
        config.number("hidden_size"),
        config.number("moe_intermediate_size"),
        config.number("n_routed_experts", high=4096),
        config.number("num_experts_per_tok", high=64),
        [layer for layer in range(_layers(config)) if layer >= first and layer % step == 0],
        precision,
    )


def _llama4(config: _Config, precision: Precision) -> Architecture:
    text = config.object("text_config") or config
    count = _layers(text)
    step = text.number("interleave_moe_layer_step", default=1, high=MAX_LAYERS)
    layers = text.numbers("moe_layers") or list(range(step - 1, count, step))
    if any(not 0 <= layer < count for layer in layers) or len(set(layers)) != len(layers):
        raise text.refuse("moe_layers", f"expected different layers in 0..{count - 1}", "LAYER_OUT_OF_RANGE")
    return Architecture(
        text.number("hidden_size"),
        text.number("intermediate_size"),
        text.number("num_local_experts", high=4096),
        text.number("num_experts_per_tok", high=64),
        sorted(layers),
        precision,
    )


_READERS: Mapping[str, Callable[[_Config, Precision], Architecture]] = {
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "gpt_oss": _mixtral,
    "granitemoe": _mixtral,
    "kimi_k2": _deepseek,
    "llama4": _llama4,
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "phimoe": _mixtral,
    "qwen2_moe": _qwen,
    "qwen3_moe": _qwen,
}
