"""Tiny models, with random weights, of every architecture in transformers that has experts."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

EXPERTS = 8
TOP_K = 2

# What configurations call these things; each takes those it knows.
_SMALL: dict[str, Any] = {
    "attention_chunk_size": 8,
    "audio_embed_dim": 32,
    "bos_token_id": 1,
    "d_ff": 16,
    "d_inner": 32,
    "d_kv": 8,
    "d_model": 32,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 16,
    "decoder_layers": 4,
    "decoder_sparse_step": 2,
    "dense_intermediate_size": 48,
    "depth": 2,
    "dim": 32,
    "embed_dim": 32,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 16,
    "encoder_layers": 4,
    "encoder_sparse_step": 2,
    "eos_token_id": 2,
    "expert_ffn_hidden_size": 16,
    "expert_layer_offset": 1,
    "expert_layer_period": 2,
    "ffn_hidden_size": 16,
    "first_k_dense_replace": 1,
    "head_dim": 8,
    "hidden_size": 32,
    "image_size": 28,
    "interleave_moe_layer_step": 2,
    "intermediate_size": 16,
    "intermediate_size_mlp": 48,
    "kv_lora_rank": 8,
    "mamba_d_state": 4,
    "mamba_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "max_position_embeddings": 64,
    "moe_hidden_size": 24,
    "moe_intermediate_size": 16,
    "moe_k": TOP_K,
    "moe_latent_size": 24,
    "moe_num_experts": EXPERTS,
    "moe_top_k": TOP_K,
    "moe_topk": TOP_K,
    "n_group": 4,
    "n_groups": 2,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 4,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_attention_heads": 4,
    "num_decoder_layers": 4,
    "num_dense_layers": 1,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "num_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "num_layers": 4,
    "num_local_experts": EXPERTS,
    "num_sparse_decoder_layers": 2,
    "num_sparse_encoder_layers": 2,
    "out_hidden_size": 32,
    "pad_token_id": 0,
    "patch_size": 14,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "ssm_state_size": 8,
    "top_k_experts": TOP_K,
    "topk_group": 2,
    "v_head_dim": 8,
    "vocab_size": 128,
    "zero_expert_num": 4,
    "enable_moe_block": True,
}

# What some need beside, by model type.
_OTHERS: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 4}},
    "dots3_note_text": {"pyramid_num_routed": [-1, 8, 8, 8], "swa_head_dim": 16},
    "dots3_note_vision_encoder": {"pyramid_num_routed": [-1, 8, 8, 8]},
    "ernie4_5_vl_moe_text": {
        "mlp_layer_types": ["dense"] + ["sparse"] * 3,
        "moe_intermediate_size": [16, 8],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    },
    "glm5_next_text": {"qk_rope_head_dim": 0},
    "hy_v4_vl_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    },
    "inkling2_text": {"unpadded_vocab_size": 128},
    "inkling2_vision": {"text_hidden_size": 32},
    "lfm2_moe": {"layer_types": ["full_attention", "conv", "full_attention", "conv"]},
    "qwen4_exp_text": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 16},
    "zaya": {"num_experts_per_tok": 1},
}

_KINDS = (
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForSeq2SeqLM",
    "AutoModelForTokenClassification",
    "AutoModel",
)


def architectures() -> list[str]:
    """Every model type whose configuration speaks of experts."""
    found = []
    for name in CONFIG_MAPPING:
        try:
            text = inspect.getsource(importlib.import_module(CONFIG_MAPPING[name].__module__))
        except (ImportError, OSError, AttributeError):
            continue
        if "expert" in text:
            found.append(name)
    return sorted(found)


def settings(kind: type[Any]) -> dict[str, Any]:
    """Small numbers for whatever of them the configuration knows, and for those nested in it."""
    known = set(inspect.signature(kind.__init__).parameters) | set(getattr(kind, "attribute_map", {}))
    known |= {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    chosen = {name: value for name, value in _SMALL.items() if name in known}
    for name, sub in getattr(kind, "sub_configs", {}).items():
        if isinstance(sub, type) and sub.__name__ != "AutoConfig":
            chosen[name] = settings(sub)
    return chosen | _OTHERS.get(getattr(kind, "model_type", ""), {})


def build(model_type: str, *, without: Collection[str] = ()) -> Any:
    """A model in bfloat16, for which nothing is said of the keys `without`. Raises whatever transformers
    raises where it cannot be made so small."""
    config = CONFIG_MAPPING[model_type](**_without(settings(CONFIG_MAPPING[model_type]), without))
    torch.manual_seed(7)
    fault: Exception | None = None
    for kind in _classes(config):
        try:
            return kind(config).to(torch.bfloat16)
        except Exception as error:  # noqa: BLE001 another class of the same configuration may do
            fault = error
    raise fault or LookupError(f"{model_type}: has no model")


def _without(values: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {
        name: _without(value, names) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in names
    }


def _classes(config: Any) -> list[Any]:
    """The classes of models for a configuration: those that AutoModel knows, or those of its module."""
    known = [getattr(transformers, name)._model_mapping for name in _KINDS]
    found = [mapping[type(config)] for mapping in known if type(config) in mapping.keys()]  # noqa: SIM118
    found = [each for entry in found for each in (entry if isinstance(entry, tuple) else (entry,))]
    if found:
        return found
    module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, PreTrainedModel)
        and getattr(value, "config_class", None) is type(config)
        and value.__module__ == module.__name__
        and "PreTrainedModel" not in value.__name__
    ]


_LAYER = re.compile(r"^(.*?)(?:layers|blocks|block|h)\.(\d+)\.")


def real_experts(model: Any) -> dict[str, dict[int, tuple[int, int]]]:
    """Tower -> layer -> how many routed experts its feed-forward network has, and the bytes of one: from the
    modules of the model itself."""
    found: dict[str, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    seen: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in seen) or not _is_experts(name, module):
            continue
        match = _LAYER.match(f"{name}.")
        if match is None:
            continue
        seen.append(name)
        if isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict):
            each = [[*expert.parameters()] for expert in module.children()]
            sizes = [sum(map(_bytes, tensors)) for tensors in each if tensors]
            count, size = len(sizes), max(sizes)
        else:
            # One-dimensional ones are norms that all experts share. LongCat has matrices for experts that do
            # nothing: each has its own number of rows.
            own = [tensor for tensor in module.parameters() if tensor.ndim > 1]
            rows = [tensor.shape[0] if tensor.ndim > 2 else EXPERTS for tensor in own]
            count, size = EXPERTS, sum(_bytes(t) // n for t, n in zip(own, rows, strict=True))
        found[match[1]][int(match[2])].append((count, size))
    return {
        tower: {layer: (parts[0][0], sum(size for _, size in parts)) for layer, parts in layers.items()}
        for tower, layers in found.items()
    }


def _bytes(tensor: torch.Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())


def _is_experts(name: str, module: Any) -> bool:
    if re.search(r"shared|attn|attention|mtp", name):
        return False
    listed = isinstance(module, torch.nn.ModuleList) and name.endswith("experts")
    return listed or re.search(r"Experts$", type(module).__name__) is not None
