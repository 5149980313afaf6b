"""What is recorded: the layers of a model, and what its tokens activated between two moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

NO_EXPERT = 65_535
"""Fills up a route of fewer than `top_k` experts."""


class Phase(StrEnum):
    """What a token was run for. UNTOLD: the engine did not say."""

    PREFILL = "PREFILL"
    DECODE = "DECODE"
    UNTOLD = "UNTOLD"


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One MoE layer as the recorder sees it: `top_k` different experts out of `experts` per token."""

    experts: int
    top_k: int

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts <= NO_EXPERT:
            raise ValueError(
                f"experts {self.experts}, top_k {self.top_k}: expected 1 <= top_k <= experts <= {NO_EXPERT}"
            )


@dataclass(frozen=True, slots=True)
class LayerWindow:
    """counts uint32[experts]; routes uint16[rows, top_k] ascending in each row, all different, `NO_EXPERT`
    fills up; weights float32[rows]: estimate of the tokens that took the route."""

    layer: int
    counts: npt.NDArray[np.uint32]
    routes: npt.NDArray[np.uint16]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Activity:
    """What some tokens activated."""

    tokens: int
    layers: tuple[LayerWindow, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """What one model's tokens activated between two moments: `tokens` and `layers` of what is to be posted,
    and each phase apart. `repeated`: tokens that were left out as repetitions, `beyond_experts`: ids that
    were left out as those of shared experts, of all phases."""

    model_id: str
    start_at: datetime
    end_at: datetime
    tokens: int
    layers: tuple[LayerWindow, ...]
    phases: Mapping[Phase, Activity] = field(default_factory=dict)
    repeated: int = 0
    beyond_experts: int = 0
