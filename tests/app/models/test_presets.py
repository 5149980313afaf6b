"""Known architectures: their layers and the bytes of an expert, by name and from config.json."""

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.models.huggingface import read_config
from app.models.presets import PRESETS

MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
QWEN3 = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "torch_dtype": "bfloat16",
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "quantization_config": {"quant_method": "mxfp4"},
}
MAVERICK = {
    "model_type": "llama4",
    "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "num_local_experts": 128,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 48,
        "interleave_moe_layer_step": 2,
    },
}


@pytest.mark.parametrize(
    ("preset", "config"),
    [
        ("mixtral-8x7b", MIXTRAL),
        ("deepseek-v3", DEEPSEEK_V3),
        ("qwen3-30b-a3b", QWEN3),
        ("gpt-oss-20b", GPT_OSS),
        ("llama-4-maverick", MAVERICK),
    ],
)
def test_presets_are_what_their_configurations_say(preset: str, config: dict[str, Any]) -> None:
    """The published config.json gives the same blocks as the preset."""
    _, blocks = read_config(config)
    assert blocks == PRESETS[preset].blocks()


@pytest.mark.parametrize(
    ("preset", "expert_bytes", "layers"),
    [
        ("tiny-moe", 98_304, 6),
        ("mixtral-8x7b", 352_321_536, 32),
        ("deepseek-v2-lite", 17_301_504, 26),
        ("deepseek-v3", 44_050_944, 58),
        ("gpt-oss-20b", 13_236_480, 24),
    ],
)
def test_bytes_of_an_expert(preset: str, expert_bytes: int, layers: int) -> None:
    """Worked out by hand from the published shapes."""
    architecture = PRESETS[preset]
    assert architecture.expert_bytes == expert_bytes
    assert len(architecture.blocks()) == layers


def test_totals_are_plausible() -> None:
    """All experts of a model together have about the parameters its name claims."""
    billions: dict[str, float] = {
        "mixtral-8x22b": 141,
        "qwen3-235b-a22b": 235,
        "olmoe-1b-7b": 7,
        "qwen2-57b-a14b": 57,
    }
    billions |= {"phi-3.5-moe": 42, "dbrx": 132, "qwen1.5-moe-a2.7b": 14.3, "deepseek-v2": 236}
    for preset, parameters in billions.items():
        total = sum(block.experts * block.expert_bytes for block in PRESETS[preset].blocks()) / 2e9
        assert 0.8 * parameters < total < parameters, preset


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"decoder_sparse_step": 2}, list(range(1, 48, 2))),
        ({"mlp_only_layers": [0, 5]}, [layer for layer in range(48) if layer not in (0, 5)]),
    ],
)
def test_dense_layers_are_left_out(changes: dict[str, Any], layers: list[int]) -> None:
    """Blocks carry the true layer numbers of the model."""
    _, blocks = read_config(QWEN3 | changes)
    assert [block.layer for block in blocks] == layers


@pytest.mark.parametrize(
    ("config", "pointer"),
    [
        ({}, "model_type"),
        ({"model_type": "gpt2"}, "model_type"),
        ({"model_type": ["mixtral"]}, "model_type"),
        (MIXTRAL | {"hidden_size": "4096"}, "hidden_size"),
        (MIXTRAL | {"hidden_size": True}, "hidden_size"),
        (MIXTRAL | {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        (MIXTRAL | {"torch_dtype": "int3"}, "torch_dtype"),
        (MIXTRAL | {"quantization_config": {"quant_method": "hqq"}}, "quantization_config/quant_method"),
        (MIXTRAL | {"quantization_config": {"quant_method": "gptq"}}, "quantization_config/bits"),
        (QWEN3 | {"mlp_only_layers": "none"}, "mlp_only_layers"),
        (QWEN3 | {"mlp_only_layers": list(range(48))}, ""),
        (MIXTRAL | {"num_experts_per_tok": 9}, "num_experts_per_tok"),
    ],
)
def test_configurations_that_cannot_be_read(config: dict[str, Any], pointer: str) -> None:
    """Refused with the place of the fault, rather than guessed."""
    with pytest.raises(InvalidRequest) as refused:
        read_config(config)
    place = f"/huggingface_config/{pointer}" if pointer else "/huggingface_config"
    assert [fault.pointer for fault in refused.value.errors] == [place]
