"""config.json of public families: layers with experts, their numbers, and the bytes of one expert."""

from __future__ import annotations

from typing import Any

import pytest

from moeplace_agent.architecture.architecture import Configuration
from moeplace_agent.architecture.document import decode_document
from moeplace_agent.architecture.faults import ConfigFault

BASE = {"hidden_size": 64, "num_hidden_layers": 4, "num_experts_per_tok": 2, "torch_dtype": "bfloat16"}
QWEN = BASE | {"model_type": "qwen3_moe", "num_experts": 8, "moe_intermediate_size": 32}
PLAIN = 3 * 64 * 32 * 2
"""Bytes of an expert of QWEN in bfloat16."""
VALUES = 3 * 64 * 32


def read(config: dict[str, Any], beside: dict[str, Any] | None = None) -> list[tuple[int, int, int, int]]:
    layers = Configuration(config).architecture(beside)
    return [(each.layer, each.experts, each.top_k, each.expert_bytes) for each in layers]


def layers_of(config: dict[str, Any]) -> list[int]:
    return Configuration(config).moe_layers()


def fault_of(config: dict[str, Any], beside: dict[str, Any] | None = None) -> ConfigFault:
    with pytest.raises(ConfigFault) as refused:
        Configuration(config).architecture(beside)
    return refused.value


# --- layers
@pytest.mark.parametrize(
    ("rule", "layers"),
    [
        ({"first_k_dense_replace": 1}, [1, 2, 3]),
        ({"num_dense_layers": 2}, [2, 3]),
        ({"mlp_only_layers": [0, 2]}, [1, 3]),
        ({"decoder_sparse_step": 2}, [1, 3]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, [1]),
        ({"moe_layer_freq": 2}, [0, 2]),
        ({"moe_layer_freq": [0, 1, 1, 0, 1]}, [1, 2]),
        ({"moe_layer_freq": 2, "first_k_dense_replace": 1}, [2]),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, [1, 3]),
        ({"interleave_moe_layer_step": 2}, [1, 3]),
        ({"interleave_moe_layer_step": 2, "moe_layers": [0, 3]}, [0, 3]),
        ({"moe_layers_enum": "1,3,4"}, [1, 3]),
        ({"moe_layers_enum": [2]}, [2]),
        ({"mlp_layer_types": ["dense", "sparse", "moe", "hash_moe", "sparse"]}, [1, 2, 3]),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 2}, [1, 2]),
        ({"moe_layer_start_index": 0, "moe_layer_end_index": -1, "moe_layer_interval": 2}, [1, 3]),
        ({"hybrid_override_pattern": "ME*E"}, [1, 3]),
        ({"layers_block_type": ["mamba", "moe", "attention", "moe"]}, [1, 3]),
        ({"layers_block_type": ["mamba", "attention", "mamba", "mamba"]}, [0, 1, 2, 3]),
        ({"pyramid_num_routed": [-1, 0, 8, 8]}, [2, 3]),
    ],
)
def test_every_rule_about_dense_layers_is_known(rule: dict[str, Any], layers: list[int]) -> None:
    """The key means for the layers what the architectures that have it do."""
    assert layers_of(QWEN | rule) == layers


@pytest.mark.parametrize(
    ("model_type", "layers"),
    [
        ("deepseek_v3", [3]),
        ("glm4_moe", [1, 2, 3]),
        ("jamba", [1, 3]),
        ("lfm2_moe", [2, 3]),
        ("flint", [2, 3]),
    ],
)
def test_a_rule_that_is_not_given_is_assumed(model_type: str, layers: list[int]) -> None:
    """As the configuration's class in transformers assumes it."""
    assert layers_of(QWEN | {"model_type": model_type}) == layers


def test_no_rule_is_assumed_beside_a_list_of_kinds() -> None:
    """The list says it all."""
    kinds = {"mlp_layer_types": ["sparse", "dense", "sparse", "sparse"]}
    assert layers_of(QWEN | {"model_type": "deepseek_v3"} | kinds) == [0, 2, 3]


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        (
            {"model_type": "deepseek_v3", "num_hidden_layers": 2},
            "",
            "first_k_dense_replace is not given, 3 is",
        ),
        ({"model_type": "nemotron_h"}, "", "hybrid_override_pattern or layers_block_type"),
        ({"model_type": "gemma4"}, "enable_moe_block", "there are no experts"),
        ({"mlp_layer_types": ["sparse"]}, "mlp_layer_types", "has 1 entries, expected one for each of the 4"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step", "expected a whole number in 1.."),
        ({"moe_layers": [4]}, "moe_layers", "expected different layers in 0..3"),
        ({"moe_layers_enum": "1,x"}, "moe_layers_enum", "expected layer numbers"),
        ({"num_local_experts": 9}, "num_experts", "is [8], num_local_experts is [9]"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size", "is missing"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok", "is missing, expected one of"),
        (
            {"num_experts_per_tok": [2, 2]},
            "num_experts_per_tok",
            "has 2 entries, expected one for each layer",
        ),
        ({"mlp_bias": True}, "mlp_bias", "biases are not known"),
        ({"expert_dtype": "fp2"}, "expert_dtype", "is 'fp2'"),
        ({"model_type": "new"}, "model_type", "moeplace origin --service registers any model"),
        ({"model_type": "new"}, "model_type", "blocks describe"),
    ],
)
def test_a_configuration_that_leaves_a_doubt_is_refused(
    changes: dict[str, Any], place: str, words: str
) -> None:
    """With the key, and with what was expected."""
    fault = fault_of(QWEN | changes)
    assert fault.place == place
    assert words in fault.detail


def test_two_models_with_experts_are_not_taken_for_one() -> None:
    """Of two text models side by side neither is chosen."""
    both = {"model_type": "new", "a_config": QWEN, "b_config": QWEN}
    with pytest.raises(ConfigFault, match="a_config and b_config"):
        Configuration(both)


@pytest.mark.parametrize(
    "nested",
    [
        {"text_config": QWEN},
        {"language_config": QWEN},
        {"llm_config": QWEN},
        {
            "thinker_config": {"text_config": QWEN},
            "talker_config": {"text_config": QWEN | {"num_experts": 4}},
        },
        {"text_config": QWEN, "vision_config": {"num_experts": 3, "num_hidden_layers": 30}},
    ],
)
def test_numbers_are_found_wherever_they_are_nested(nested: dict[str, Any]) -> None:
    """The type of the text model counts where that of the whole is not known."""
    assert read({"model_type": "new_vl", "num_hidden_layers": 99} | nested) == [
        (layer, 8, 2, PLAIN) for layer in range(4)
    ]


def test_experts_have_the_width_they_are_projected_to() -> None:
    """Nemotron 3's latent width, and two matrices, since its experts are not gated."""
    nemotron = {"model_type": "nemotron_h", "hybrid_override_pattern": "MEM*", "moe_latent_size": 16}
    assert read(QWEN | nemotron) == [(1, 8, 2, 2 * 16 * 32 * 2)]


def test_biases_of_gpt_oss_are_counted_in_bfloat16_too() -> None:
    """Two for the inner width and one for the outer."""
    config = BASE | {"model_type": "gpt_oss", "num_local_experts": 8, "intermediate_size": 32}
    assert read(config)[0] == (0, 8, 2, PLAIN + 2 * (2 * 32 + 64))


# --- quantization
def _modelopt(**more: Any) -> dict[str, Any]:
    return {"quantization": {"quant_algo": "NVFP4", "group_size": 16} | more}


def _packed(**weights: Any) -> dict[str, Any]:
    group = {"weights": {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": True} | weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
    }


def _eight(strategy: str, **inputs: Any) -> dict[str, Any]:
    group = {"weights": {"num_bits": 8, "strategy": strategy, "block_structure": [16, 16]}}
    group |= {"input_activations": inputs} if inputs else {}
    return _packed() | {"format": "float-quantized", "config_groups": {"group_0": group}}


@pytest.mark.parametrize(
    ("quantization", "size"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, VALUES + 3 * 4),
        ({"quant_method": "fp8", "weight_block_size": [16, 16]}, VALUES + 3 * 4 * 8),
        ({"quant_method": "fp8", "activation_scheme": "static"}, VALUES + 3 * 8),
        ({"quant_method": "mxfp4"}, VALUES // 2 + VALUES // 32),
        ({"quant_method": "awq", "bits": 4, "group_size": 32}, VALUES // 2 + VALUES // 64 + VALUES // 16),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 32},
            VALUES // 2 + VALUES // 64 + VALUES // 16 + 4 * (64 + 64 + 32),
        ),
        (_packed(), VALUES // 2 + VALUES // 16 + 3 * 16),
        (_eight("channel"), VALUES + 2 * (32 + 32 + 64)),
        (_eight("tensor", dynamic=False), VALUES + 3 * 4),
        (_eight("block"), VALUES + 3 * 2 * 8),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, VALUES + 3 * 8),
        ({"quant_method": "fp8", "modules_to_not_convert": ["lm_head", "mlp.gate"]}, VALUES + 3 * 4),
        ({"quant_method": "fp8", "modules_to_not_convert": ["experts"]}, PLAIN),
        (_packed() | {"ignore": ["re:.*self_attn.*", "re:.*mlp\\.(gate|up|down)_proj.*"]}, 3504),
        (_packed() | {"ignore": ["re:.*experts.*"]}, PLAIN),
    ],
)
def test_bytes_follow_the_quantization(quantization: dict[str, Any], size: int) -> None:
    """Worked out by hand from the shapes of the packed tensors and their scales."""
    assert {row[3] for row in read(QWEN | {"quantization_config": quantization})} == {size}


NVFP4 = VALUES // 2 + VALUES // 16 + 3 * 8


@pytest.mark.parametrize(
    ("beside", "sizes"),
    [
        (_modelopt(), [NVFP4] * 4),
        (
            _modelopt(exclude_modules=["lm_head", "model.layers.0*", "model.layers.1.mlp.gate"]),
            [PLAIN] + [NVFP4] * 3,
        ),
        (_modelopt(exclude_modules=["*.mlp.shared_expert.*", "model.layers.1.self_attn*"]), [NVFP4] * 4),
        (_modelopt(quant_algo="W4A16_NVFP4"), [NVFP4 - 12] * 4),
        (_modelopt(quant_algo="MXFP8"), [VALUES + VALUES // 32] * 4),
        (
            _modelopt(
                quant_algo="MIXED_PRECISION",
                quantized_layers={
                    "model.layers.0.mlp.experts": {"quant_algo": "NVFP4"},
                    "model.layers.1.mlp.experts.0.up_proj": {"quant_algo": "FP8"},
                    "model.layers.2.self_attn.q_proj": {"quant_algo": "FP8"},
                },
            ),
            [NVFP4, VALUES + 24, PLAIN, PLAIN],
        ),
    ],
)
def test_bytes_follow_hf_quant_config(beside: dict[str, Any], sizes: list[int]) -> None:
    """NVFP4 takes 3.56 times less than the bfloat16 that config.json says."""
    assert [row[3] for row in read(QWEN, beside)] == sizes


@pytest.mark.parametrize(
    ("quantization", "key"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method"),
        ({"quant_method": "quark"}, "quant_method"),
        ({"bits": 4, "group_size": 64}, "quant_method"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"-:x": {}}}, "dynamic"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo"),
        (_packed(symmetric=False), "config_groups"),
        (_packed() | {"format": "marlin-24"}, "format"),
        (_packed() | {"config_groups": {"a": {}, "b": {}}}, "config_groups"),
    ],
)
def test_a_quantization_whose_bytes_are_not_known_is_refused(quantization: dict[str, Any], key: str) -> None:
    """Rather than counted in the model's dtype."""
    fault = fault_of(QWEN | {"quantization_config": quantization})
    assert (fault.place, fault.code) == (f"quantization_config/{key}", "UNKNOWN_QUANTIZATION")


def test_layers_are_read_whatever_the_quantization() -> None:
    """--model-config needs no bytes."""
    config = QWEN | {"quantization_config": {"quant_method": "new"}, "torch_dtype": None}
    assert layers_of(config) == [0, 1, 2, 3]


# --- the document
@pytest.mark.parametrize("text", ['{"a": Infinity}', '{"a": [-Infinity, NaN]}', '\ufeff{"a": 1}'])
def test_what_python_writes_is_read(text: str) -> None:
    """Infinity, NaN and a byte order mark do no harm."""
    assert "a" in decode_document(text.encode())
