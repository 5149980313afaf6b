"""What must be read of a saved model: what its modules had."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from moeplace_agent.architecture.architecture import Configuration
from moeplace_agent.architecture.faults import ConfigFault
from moeplace_agent.checkpoint.checkpoint import open_checkpoint
from moeplace_agent.checkpoint.shards import CheckpointError

Real = Mapping[str, Mapping[int, tuple[int, int]]]
"""Tower -> layer -> how many experts, and the bytes of the largest."""

ENCODER_DECODERS = ("nllb-moe", "switch_transformers")
"""Two models in one, without a number of experts per token."""
TIED = ("diffusion_gemma",)
"""Encoder and decoder are one, and saved once."""
REFUSED = {
    "ernie4_5_vl_moe": "UNKNOWN_MODEL_TYPE",
    "ernie4_5_vl_moe_text": "UNKNOWN_MODEL_TYPE",
    "nllb-moe": "UNKNOWN_MODEL_TYPE",
    "switch_transformers": "UNKNOWN_MODEL_TYPE",
}
"""Configurations that are refused, as docs/agents.md says."""


def check_origin(model_type: str, directory: Path, real: Real) -> None:
    if model_type in ENCODER_DECODERS:
        with pytest.raises(CheckpointError, match=r"--below|--layers"):
            open_checkpoint(directory, top_k=1)
        towers = {tower: _read(directory, below=tower, top_k=1, layers=4) for tower in real}
        assert towers == real
        return
    if model_type == "ernie4_5_vl_moe_text":
        with pytest.raises(CheckpointError, match="two kinds of experts"):
            open_checkpoint(directory)
        return
    found = _read(directory)
    if model_type == "ernie4_5_vl_moe":  # saved with experts for text and, smaller, for pictures in one row
        assert {count for count, _ in found.values()} == {16}
        return
    assert [found] == list(real.values()) or (model_type in TIED and found in real.values())


def _read(directory: Path, **options: Any) -> dict[int, tuple[int, int]]:
    checkpoint = open_checkpoint(directory, **options)
    assert set(checkpoint.top_k.values()) <= {1, 2}
    return {
        layer: (len(experts), checkpoint.expert_bytes(layer)) for layer, experts in checkpoint.layers.items()
    }


def check_configuration(model_type: str, config: Mapping[str, Any], real: Real) -> None:
    if model_type in REFUSED:
        with pytest.raises(ConfigFault) as refused:
            Configuration(config).architecture()
        assert refused.value.code == REFUSED[model_type]
        return
    layers = Configuration(config).architecture()
    assert {each.layer: (each.experts, each.expert_bytes) for each in layers} == next(iter(real.values()))
