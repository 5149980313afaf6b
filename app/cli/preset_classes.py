"""The classes by which engines run the models of presets: `architectures` in their config.json."""

from __future__ import annotations

_CLASSES = {
    "dbrx": "DbrxForCausalLM",
    "deepseek-r1": "DeepseekV3ForCausalLM",
    "deepseek-v2": "DeepseekV2ForCausalLM",
    "deepseek-v3": "DeepseekV3ForCausalLM",
    "gpt-oss": "GptOssForCausalLM",
    "granite-3.0": "GraniteMoeForCausalLM",
    "kimi-k2": "DeepseekV3ForCausalLM",
    "llama-4": "Llama4ForConditionalGeneration",
    "mixtral": "MixtralForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "phi-3.5-moe": "PhiMoEForCausalLM",
    "qwen1.5-moe": "Qwen2MoeForCausalLM",
    "qwen2-57b": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3MoeForCausalLM",
}
"""By what the preset's name begins with."""


def preset_class(name: str) -> str | None:
    """None for a preset of a model that no engine has a class for."""
    return next((kind for begin, kind in _CLASSES.items() if name.startswith(begin)), None)
