"""A placement as files of other systems see it: by MoE layer and node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent.interop.faults import InteropError
from agent.interop.layers import LayerIndex, MoeLayers

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
                f"but the placement has {len(self.holds)}"
            )

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

    def holds(self, moe: MoeLayers, experts: Sequence[int]) -> tuple[Held, ...]:
        """By MoE layer, with `experts[l]` columns. Layers that are no MoE layers are passed over."""
        found: dict[int, Held] = {}
        for layer, held in self.layers.items():
            ordinal = moe.ordinal(layer, self.index)
            if ordinal is None:
                if self.index is LayerIndex.MOE:
                    raise InteropError(f"layer {layer}: expected at most {len(moe.numbers)} MoE layers")
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
        return tuple(found[ordinal] for ordinal in range(len(moe.numbers)))


def _experts(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return (
        f"{'expert' if len(numbers) == 1 else 'experts'} {shown}{more} {'is' if len(numbers) == 1 else 'are'}"
    )
