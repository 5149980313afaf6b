"""Every architecture with experts that transformers has, found by itself: a tiny model of it is made, saved
and read back as a checkpoint and by its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WHY = "needs torch and transformers: make test-transformers"
pytest.importorskip("torch", reason=WHY)
pytest.importorskip("transformers", reason=WHY)

from moeplace_agent.architecture.architecture import Configuration  # noqa: E402
from moeplace_agent.architecture.document import read_document  # noqa: E402
from moeplace_agent.architecture.layers import RULES  # noqa: E402
from tests.agent.architectures.expected import (  # noqa: E402
    REFUSED,
    check_configuration,
    check_origin,
)
from tests.agent.architectures.models import architectures, build, real_experts  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("default"),  # what transformers warns of is not ours to mend
]

UNSAID = {*RULES, "expert_layer_offset"}
ASKED = {"nemotron_h"}
"""Nothing is assumed for them."""


def made(model_type: str, **options: Any) -> Any:
    try:
        model = build(model_type, **options)
    except Exception as error:  # noqa: BLE001 of some architectures no tiny model can be made
        pytest.skip(f"no tiny model: {type(error).__name__}: {error}".splitlines()[0])
    if not real_experts(model):
        pytest.skip("has no experts")
    return model


@pytest.mark.parametrize("model_type", architectures())
def test_bytes_of_an_expert_equal_the_real_parameters(model_type: str, tmp_path: Path) -> None:
    """The origin's reading of the saved files, and that of config.json alone, are what the modules have."""
    model = made(model_type)
    model.save_pretrained(tmp_path)
    check_origin(model_type, tmp_path, real_experts(model))
    check_configuration(model_type, read_document(tmp_path / "config.json"), real_experts(model))


@pytest.mark.parametrize("model_type", sorted({*architectures()} - REFUSED.keys() - ASKED))
def test_rules_that_are_not_given_are_assumed_as_transformers_does(model_type: str) -> None:
    """Without the keys that say which layers have experts, they are those that the model then has."""
    model = made(model_type, without=UNSAID)
    config = dict(_said(model.config.to_dict()))
    assert Configuration(config).moe_layers() == sorted(next(iter(real_experts(model).values())))


def _said(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name not in UNSAID:
            yield name, dict(_said(value)) if isinstance(value, dict) else value
