"""The model classes for which SGLang reads `--init-expert-location`, and those for which it ignores it.

SGLang takes the map where the class has `get_model_config_for_expert_location`, and drops it without a word
where the class has none. The lists are those of the wheel of `SGLANG`, classes of draft models left out.
"""

from __future__ import annotations

from dataclasses import dataclass

SGLANG = "SGLang 0.5.23"

READ = frozenset(
    {
        "BailingMoEForCausalLM",
        "BailingMoeForCausalLM",
        "BailingMoeV2ForCausalLM",
        "BailingMoeV2_5ForCausalLM",
        "BailingMoeV3ForCausalLM",
        "BailingMoeV3VLForConditionalGeneration",
        "DeepseekV2ForCausalLM",
        "DeepseekV32ForCausalLM",
        "DeepseekV3ForCausalLM",
        "DeepseekV4ForCausalLM",
        "Dots3NoteForCausalLM",
        "DotsVLMForCausalLM",
        "ExaoneMoEForCausalLM",
        "ExaoneMoeForCausalLM",
        "Glm4MoeForCausalLM",
        "Glm4MoeLiteForCausalLM",
        "Glm5NextForConditionalGeneration",
        "GlmMoeDsaForCausalLM",
        "GptOssForCausalLM",
        "InternS1ProForConditionalGeneration",
        "InternS2PreviewForConditionalGeneration",
        "K2HorizonForCausalLM",
        "KimiK25ForConditionalGeneration",
        "LLaDA2MoeModelLM",
        "LongcatFlashForCausalLM",
        "MellumForCausalLM",
        "MiMoV2FlashForCausalLM",
        "MiMoV2ForCausalLM",
        "MiniMaxM2ForCausalLM",
        "MiniMaxM3SparseForCausalLM",
        "MiniMaxM3SparseForConditionalGeneration",
        "MistralLarge3ForCausalLM",
        "NemotronHForCausalLM",
        "NemotronHPuzzleForCausalLM",
        "NemotronH_Nano_Omni_Reasoning_V3",
        "NemotronH_Nano_VL_V2",
        "NemotronH_Omni_Reasoning_V3",
        "Qwen2MoeForCausalLM",
        "Qwen3MoeForCausalLM",
        "Qwen3NextForCausalLM",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen4ExpForConditionalGeneration",
        "SDARMoeForCausalLM",
        "SarvamMLAForCausalLM",
        "SarvamMoEForCausalLM",
        "Step3VLForConditionalGeneration",
        "Step3p5ForCausalLM",
        "Step3p7ForConditionalGeneration",
        "TransformersMoEForCausalLM",
        "TransformersMultiModalMoEForCausalLM",
        "XllmForCausalLM",
    }
)

IGNORED = frozenset(
    {
        "AfmoeForCausalLM",
        "Cohere2MoeForCausalLM",
        "DbrxForCausalLM",
        "DeepseekForCausalLM",
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_VLMoeForConditionalGeneration",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "GraniteMoeForCausalLM",
        "GraniteMoeSWAForCausalLM",
        "GraniteMoeSharedForCausalLM",
        "Grok1ForCausalLM",
        "Grok1ModelForCausalLM",
        "HYV3ForCausalLM",
        "HunYuanMoEV1ForCausalLM",
        "InternS1ForConditionalGeneration",
        "InternS2MobiusForConditionalGeneration",
        "KimiK3ForConditionalGeneration",
        "KimiK3LinearForCausalLM",
        "KimiLinearForCausalLM",
        "KimiVLForConditionalGeneration",
        "LagunaForCausalLM",
        "Lfm2MoeForCausalLM",
        "Llama4ForCausalLM",
        "Llama4ForConditionalGeneration",
        "MixtralForCausalLM",
        "OlmoeForCausalLM",
        "PhiMoEForCausalLM",
        "Qwen3OmniMoeForConditionalGeneration",
        "XverseMoeForCausalLM",
        "ZayaForCausalLM",
    }
)


@dataclass(frozen=True, slots=True)
class Unread:
    """Why an engine does not read a file. `certain`: False where that is not known of the model."""

    words: str
    certain: bool


def unread(model_class: str | None) -> Unread | None:
    """None where SGLang reads the file for the class."""
    if model_class in READ:
        return None
    if model_class in IGNORED:
        return Unread(f"{SGLANG} ignores the file for {model_class}, and says nothing", certain=True)
    known = "no model is named" if model_class is None else f"{model_class} is not known here"
    return Unread(
        f"{known}: {SGLANG} ignores the file, and says nothing, for classes without "
        "get_model_config_for_expert_location, such as Mixtral's and OLMoE's",
        certain=False,
    )
