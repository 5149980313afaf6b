"""Models of every architecture in transformers, as it saves them: read without torch, from what is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tests.agent.architectures.expected import check_configuration, check_origin
from tests.agent.architectures.saving import names_of

_LINES = (Path(__file__).parent / "transformers.jsonl").read_text().splitlines()
MODELS: Mapping[str, dict[str, Any]] = {row["model_type"]: row for row in map(json.loads, _LINES[1:])}
_BITS = {"F32": 32, "BF16": 16, "F16": 16, "I64": 64, "I32": 32, "BOOL": 8, "U8": 8}


def _write(directory: Path, row: Mapping[str, Any]) -> None:
    """The checkpoint with holes for bytes: only its headers are read."""
    header: dict[str, Any] = {}
    at = 0
    for name, dtype, shape in names_of(row["tensors"]):
        size = prod(shape) * _BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    encoded = json.dumps(header).encode()
    (directory / "config.json").write_text(json.dumps(row["config"]))
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + at)


def test_most_architectures_are_here() -> None:
    """The file holds what the newest transformers could be made to save."""
    assert json.loads(_LINES[0])["transformers"] >= "5.24"
    assert len(MODELS) > 80
    assert {"mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "nemotron_h", "dbrx", "jetmoe"} <= set(MODELS)


@pytest.mark.parametrize("model_type", MODELS)
def test_the_origin_finds_the_real_experts(model_type: str, tmp_path: Path) -> None:
    """Layers, experts and bytes of one are those of the modules that the saved model had."""
    row = MODELS[model_type]
    _write(tmp_path, row)
    real = {
        tower: {int(layer): tuple(found) for layer, found in layers.items()}
        for tower, layers in row["experts"].items()
    }
    check_origin(model_type, tmp_path, real)


@pytest.mark.parametrize("model_type", MODELS)
def test_the_configuration_says_the_real_experts(model_type: str) -> None:
    """config.json alone gives the same layers, experts and bytes, or is refused where that is documented."""
    row = MODELS[model_type]
    real = {
        tower: {int(layer): tuple(found) for layer, found in layers.items()}
        for tower, layers in row["experts"].items()
    }
    check_configuration(model_type, row["config"], real)
