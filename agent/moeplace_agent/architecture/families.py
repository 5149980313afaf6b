"""The model types whose experts are known, and what their configurations leave unsaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moeplace_agent.architecture.section import DENSE_INTERMEDIATE, INTERMEDIATE


@dataclass(frozen=True)
class Family:
    """Experts are feed-forward networks of three matrices where they are gated (gate, up, down), else of two.

    `intermediate`: what the configuration calls their inner width. `defaults`: the rules about layers that
    hold where the configuration does not give them, as transformers assumes. `asks`: of these keys one must
    be there, since nothing may be assumed. `switch`: the key that says whether there are experts at all.
    `beside`: the experts lie in the layer itself, beside a dense `mlp`. `ignored`: rules about layers that
    the configuration has and the model does not heed.
    """

    matrices: int = 3
    biases: bool = False
    intermediate: tuple[str, ...] = INTERMEDIATE
    defaults: Mapping[str, int | list[int]] = field(default_factory=dict)
    asks: tuple[str, ...] = ()
    switch: str | None = None
    beside: bool = False
    ignored: tuple[str, ...] = ()


_PLAIN = Family()
_ONE_WIDTH = Family(intermediate=INTERMEDIATE + DENSE_INTERMEDIATE)
"""Every layer, or every one that the rules name, is sparse: there is one inner width."""
_BIASED = Family(biases=True, intermediate=INTERMEDIATE + DENSE_INTERMEDIATE)


def _after(dense: int, key: str = "first_k_dense_replace") -> Family:
    return Family(defaults={key: dense})


FAMILIES: Mapping[str, Family] = {
    "afmoe": _after(1, "num_dense_layers"),
    "arctic": Family(intermediate=DENSE_INTERMEDIATE, defaults={"moe_layer_frequency": 2}),
    "aria": _ONE_WIDTH,
    "aria_text": _ONE_WIDTH,
    "axk1": _after(1),
    "axk2": _after(1),
    "bailing_hybrid": _after(2),
    "bailing_moe": _after(0),
    "bailing_moe_linear": _after(0),
    "bailing_moe_v2": _after(0),
    "beam": _after(3),
    "cohere2_moe": Family(
        intermediate=INTERMEDIATE + DENSE_INTERMEDIATE, defaults={"first_k_dense_replace": 0}
    ),
    "dbrx": _ONE_WIDTH,
    "deepseek": _after(0),
    "deepseek_ocr2": _after(0),
    "deepseek_ocr2_text": _PLAIN,
    "deepseek_ref": _PLAIN,
    "deepseek_v2": _after(0),
    "deepseek_v3": _after(3),
    "deepseek_v32": _after(3),
    "deepseek_v4": _PLAIN,
    "deepseek_vl_v2": _after(0),
    "diffusion_gemma": Family(beside=True),
    "diffusion_gemma_text": Family(beside=True),
    "dots1": _after(0),
    "dots3_note": _PLAIN,
    "dots3_note_text": _PLAIN,
    "ernie4_5_moe": Family(defaults={"moe_layer_start_index": 1}),
    "exaone_moe": _after(1),
    "flex_olmo": _ONE_WIDTH,
    "flint": Family(defaults={"mlp_only_layers": [0, 1]}),
    "gemma4": Family(switch="enable_moe_block", beside=True),
    "gemma4_text": Family(switch="enable_moe_block", beside=True),
    "glm4_moe": _after(1),
    "glm4_moe_lite": _after(1),
    "glm4v_moe": _after(1),
    "glm4v_moe_text": _after(1),
    "glm5_next": _after(3),
    "glm5_next_text": _after(3),
    "glm_moe_dsa": _after(3),
    "gpt_oss": _BIASED,
    "granitemoe": _ONE_WIDTH,
    "granitemoe_swa": _ONE_WIDTH,
    "granitemoehybrid": _ONE_WIDTH,
    "granitemoeshared": _ONE_WIDTH,
    "hunyuan_v1_moe": _ONE_WIDTH,
    "hy_v3": _after(1),
    "hy_v4": _after(1),
    "hy_v4_vl": _after(1),
    "hy_v4_vl_text": _after(1),
    "inkling2": _PLAIN,
    "inkling2_loop": _PLAIN,
    "inkling2_loop_text": _PLAIN,
    "inkling2_text": _PLAIN,
    "inkling_mm_model": _PLAIN,
    "inkling_text": _PLAIN,
    "jamba": Family(
        intermediate=DENSE_INTERMEDIATE, defaults={"expert_layer_period": 2, "expert_layer_offset": 1}
    ),
    "jetmoe": _ONE_WIDTH,
    "kimi_k2": _after(3),
    "kimi_k25": _after(3),
    "kimi_k3": _after(1),
    "kimi_linear": _after(1),
    "kimi_vl": _after(3),
    "kolibri1": _PLAIN,
    "laguna": _after(1),
    "lara_mini": _PLAIN,
    "lfm2_moe": _after(2, "num_dense_layers"),
    "llada_moe": Family(intermediate=("expert_intermediate_size", *INTERMEDIATE)),
    "llama4": Family(intermediate=DENSE_INTERMEDIATE),
    "llama4_text": Family(intermediate=DENSE_INTERMEDIATE),
    "longcat_flash": _PLAIN,
    "mellum": _PLAIN,
    "mimo_v2_flash": _after(1),
    "minimax": _ONE_WIDTH,
    "minimax_m1": _ONE_WIDTH,
    "minimax_m2": _ONE_WIDTH,
    "minimax_m3": _ONE_WIDTH,
    "minimax_m3_vl": _ONE_WIDTH,
    "minimax_m3_vl_text": _ONE_WIDTH,
    "minimax_text_01": _ONE_WIDTH,
    "mistral4": _after(0),
    "mistral_large4": _after(1),
    "mistral_large4_text": _after(1),
    "mixtral": _ONE_WIDTH,
    "muse_spark": _PLAIN,
    "muse_spark_text": _PLAIN,
    "nemotron_h": Family(matrices=2, asks=("hybrid_override_pattern", "layers_block_type")),
    "olmoe": _ONE_WIDTH,
    "openai_privacy_filter": _BIASED,
    "PanguProMoE": _PLAIN,
    "phimoe": _ONE_WIDTH,
    "qwen2_moe": _PLAIN,
    "qwen3_5_moe": _PLAIN,
    "qwen3_5_moe_text": _PLAIN,
    "qwen3_moe": _PLAIN,
    "qwen3_next": _PLAIN,
    "qwen3_omni_moe": _PLAIN,
    "qwen3_omni_moe_talker_text": Family(ignored=("decoder_sparse_step", "mlp_only_layers")),
    "qwen3_omni_moe_text": _PLAIN,
    "qwen3_omni_moe_thinker": _PLAIN,
    "qwen3_vl_moe": _PLAIN,
    "qwen3_vl_moe_text": _PLAIN,
    "qwen4_exp": _PLAIN,
    "qwen4_exp_text": _PLAIN,
    "sarvam_mla": _after(1),
    "sarvam_moe": _after(1),
    "solar_open": _after(0),
    "step3_text": Family(asks=("moe_layers_enum",)),
    "step3_vl": Family(asks=("moe_layers_enum",)),
    "step3p5": _after(3),
    "step3p7": _after(3),
    "unlimited_ocr": _after(1),
    "unlimited_ocr_text": _after(1),
    "zaya": _PLAIN,
}
"""By `model_type`, of the whole or of the text model within it."""
