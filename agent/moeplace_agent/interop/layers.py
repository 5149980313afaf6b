"""Layer numbers: of the model, or counted among its MoE layers only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from moeplace_agent.interop.faults import InteropError

MAX_LAYERS = 10_000
_SPAN = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def drop_advice(layer: int) -> str:
    """What to do about a layer behind the model's."""
    return f"a draft layer, of multi-token prediction, is left out by --drop-layers {layer}"


class LayerIndex(StrEnum):
    """How a file numbers layers. MODEL: the layer's number in the model, dense layers counted too. MOE: its
    place among the MoE layers. Both from 0."""

    MODEL = "model"
    MOE = "moe"


@dataclass(frozen=True, slots=True)
class MoeLayers:
    """The MoE layers of a model: their numbers in it, ascending, and how many layers it has in all."""

    numbers: tuple[int, ...]
    model_layers: int

    def __post_init__(self) -> None:
        if not self.numbers or list(self.numbers) != sorted(set(self.numbers)) or self.numbers[0] < 0:
            raise InteropError(
                f"MoE layers: are {_shown(self.numbers)}, expected different ascending numbers"
            )
        if not self.numbers[-1] < self.model_layers <= MAX_LAYERS:
            raise InteropError(
                f"model layers: are {self.model_layers}, expected {self.numbers[-1] + 1}..{MAX_LAYERS} "
                f"since layer {self.numbers[-1]} is a MoE layer"
            )

    @classmethod
    def of(cls, numbers: Iterable[int], model_layers: int | None = None) -> MoeLayers:
        """`model_layers` absent: the last MoE layer is the model's last layer."""
        chosen = tuple(numbers)
        return cls(chosen, max(chosen, default=-1) + 1 if model_layers is None else model_layers)

    def ordinal(self, layer: int, index: LayerIndex) -> int | None:
        """The place among the MoE layers of a layer numbered as `index` says; None where it is none."""
        if index is LayerIndex.MOE:
            return layer if 0 <= layer < len(self.numbers) else None
        return self.numbers.index(layer) if layer in self.numbers else None

    def __str__(self) -> str:
        return _shown(self.numbers)


def read_numbers(text: str) -> tuple[int, ...]:
    """The numbers of a text such as `1-26` or `0,2,4-7`; `InteropError` where it is none."""
    numbers: list[int] = []
    for part in text.split(","):
        span = _SPAN.fullmatch(part.strip())
        if span is None:
            raise InteropError(f"{part!r:.60}: expected numbers such as 1-26 or 0,2,4-7")
        first, last = int(span[1]), int(span[2] or span[1])
        if not first <= last < MAX_LAYERS:
            raise InteropError(f"{part!r:.60}: expected from-to with from <= to < {MAX_LAYERS}")
        numbers.extend(range(first, last + 1))
    return tuple(numbers)


def _shown(numbers: Sequence[int]) -> str:
    """`1-26`: the inverse of `read_numbers`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "none"
