"""The MoE layers that a Hugging Face `config.json` describes, as the service's blocks."""

from collections.abc import Mapping
from typing import Any

from app.errors import FieldError, InvalidRequest
from app.models.schemas import Block
from moeplace_agent.architecture.architecture import Configuration
from moeplace_agent.architecture.faults import ConfigFault

ROOT = "/huggingface_config"
QUANTIZATION = "hf_quant_config"


def read_config(
    config: Mapping[str, Any], quantization: Mapping[str, Any] | None = None
) -> tuple[str, list[Block]]:
    """The model type, and a block for each layer with experts.

    `quantization`: the checkpoint's hf_quant_config.json, where it has one. `InvalidRequest` with a pointer
    where the layers cannot be told, or where the bytes of an expert are not known.
    """
    try:
        configuration = Configuration(config)
        layers = configuration.architecture(quantization)
    except ConfigFault as fault:
        beside = fault.place.partition("/")[0] == QUANTIZATION
        pointer = f"/{fault.place}" if beside else f"{ROOT}/{fault.place}" if fault.place else ROOT
        raise InvalidRequest(
            f"{pointer}: {fault.detail}", errors=[FieldError(pointer, fault.detail, fault.code)]
        ) from None
    return configuration.model_type, [
        Block(layer=each.layer, experts=each.experts, expert_bytes=each.expert_bytes, top_k=each.top_k)
        for each in layers
    ]
