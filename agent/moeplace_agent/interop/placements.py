"""A placement as files of other systems see it: by MoE layer and node."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers, drop_advice

Held = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class FleetPlacement:
    """holds[l]: bool[nodes, experts of the l-th MoE layer]."""

    nodes: tuple[str, ...]
    moe: MoeLayers
    holds: tuple[Held, ...]

    def __post_init__(self) -> None:
        if len(self.holds) != len(self.moe.numbers):
            raise InteropError(
                f"MoE layers: are {self.moe}, {len(self.moe.numbers)} of them, "
                f"but the placement has {len(self.holds)} (--drop-layers leaves draft layers out)"
            )

    def without(self, layers: Collection[int]) -> FleetPlacement:
        """Less these layers of the model; `InteropError` for one that is not a MoE layer here."""
        for layer in sorted(layers):
            if layer not in self.moe.numbers:
                raise InteropError(
                    f"--drop-layers: {layer} is not a MoE layer here, expected some of {self.moe}"
                )
        kept = [at for at, layer in enumerate(self.moe.numbers) if layer not in layers]
        left = range(self.moe.model_layers)
        while left and left[-1] in layers:
            left = left[:-1]
        numbers = [self.moe.numbers[at] for at in kept]
        return FleetPlacement(
            self.nodes, MoeLayers.of(numbers, len(left)), tuple(self.holds[at] for at in kept)
        )

    def with_drafts(self, layers: Collection[int]) -> FleetPlacement:
        """With draft layers behind the model's. In each of them every node holds as many experts as the first
        node does in the last layer, node n of N from expert n * experts // N on, so that each expert is held.
        `InteropError` for a layer that is not behind the others."""
        numbers = sorted(layers)
        if numbers and numbers[0] < self.moe.model_layers:
            raise InteropError(
                f"--draft-layers: {numbers[0]} is not a layer behind the model's, expected "
                f"{self.moe.model_layers} or more"
            )
        experts = self.holds[-1].shape[1]
        slots = int(self.holds[-1][0].sum())
        held = np.zeros((len(self.nodes), experts), np.bool_)
        for n in range(len(self.nodes)):
            held[n, (n * experts // len(self.nodes) + np.arange(slots)) % experts] = True
        moe = MoeLayers.of(
            (*self.moe.numbers, *numbers), numbers[-1] + 1 if numbers else self.moe.model_layers
        )
        return FleetPlacement(self.nodes, moe, (*self.holds, *(held for _ in numbers)))

    def require_everywhere(self, target: str) -> None:
        """Refuses experts that no node holds, for targets that have no other place for them."""
        for layer, held in zip(self.moe.numbers, self.holds, strict=True):
            nowhere = np.flatnonzero(~held.any(axis=0))
            if len(nowhere):
                raise InteropError(
                    f"layer {layer}: {_experts(nowhere.tolist())} on no node, "
                    f"expected one on each, since {target} has no origin to call"
                )


@dataclass(frozen=True, slots=True, eq=False)
class HeldSets:
    """What a file says each node holds: by layer, numbered as `index` says, bool[nodes, experts]; experts
    only as far as the file names them."""

    index: LayerIndex
    layers: Mapping[int, Held]

    def holds(
        self, moe: MoeLayers, experts: Sequence[int], dropped: Collection[int] = ()
    ) -> tuple[Held, ...]:
        """By MoE layer, with `experts[l]` columns. Dense layers of the model are passed over, and those
        `dropped`, numbered as the file numbers them. `InteropError` where a MoE layer is missing, and where
        there are more layers than the model has."""
        found: dict[int, Held] = {}
        behind = []
        for layer, held in self.layers.items():
            if layer in dropped:
                continue
            ordinal = moe.ordinal(layer, self.index)
            if ordinal is None:
                if self.index is LayerIndex.MOE or layer >= moe.model_layers:
                    behind.append(layer)
                continue
            if held.shape[1] > experts[ordinal]:
                named = np.flatnonzero(held.any(axis=0))
                if len(named) and named[-1] >= experts[ordinal]:
                    raise InteropError(
                        f"layer {layer}: names expert {named[-1]}, expected 0..{experts[ordinal] - 1}"
                    )
            wide = np.zeros((len(held), experts[ordinal]), np.bool_)
            width = min(held.shape[1], experts[ordinal])
            wide[:, :width] = held[:, :width]
            found[ordinal] = wide
        for ordinal, layer in enumerate(moe.numbers):
            if ordinal not in found:
                at = layer if self.index is LayerIndex.MODEL else ordinal
                raise InteropError(f"layer {at}: missing, expected MoE layers {moe}")
        if behind:
            if self.index is LayerIndex.MODEL:
                expected = f"the model's {moe.model_layers} layers (--model-layers may say otherwise; "
            else:
                expected = f"the {len(moe.numbers)} MoE layers (layers numbered as moe; "
            raise InteropError(f"layer {behind[0]}: is behind {expected}{drop_advice(behind[0])})")
        return tuple(found[ordinal] for ordinal in range(len(moe.numbers)))


def _experts(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return (
        f"{'expert' if len(numbers) == 1 else 'experts'} {shown}{more} {'is' if len(numbers) == 1 else 'are'}"
    )
