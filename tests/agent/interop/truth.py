"""One small truth that the tests write in every format: tokens of a model of four layers, two of them MoE."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moeplace_agent.interop.layers import LayerIndex, MoeLayers
from moeplace_agent.interop.registry import RECORDINGS
from moeplace_agent.interop.sources import InputFile, accumulate, layer_index_of, moe_layers_of, recordings

MODEL_LAYERS = 4
MOE = MoeLayers.of((1, 3), MODEL_LAYERS)
EXPERTS, K, TOKENS = 6, 2, 40

Tokens = npt.NDArray[np.int64]


def tokens(seed: int = 0, count: int = TOKENS) -> Tokens:
    """int64[tokens, MoE layers, k], different experts per token; every expert is called."""
    random = np.random.default_rng(seed)
    return np.argsort(random.random((count, len(MOE.numbers), EXPERTS)), axis=2)[:, :, :K]


def counts(chosen: Tokens) -> Tokens:
    """int64[MoE layers, experts]"""
    return np.stack(
        [np.bincount(chosen[:, layer].ravel(), minlength=EXPERTS) for layer in range(chosen.shape[1])]
    )


def model_rows(table: Tokens) -> Tokens:
    """The same with a row for every layer of the model, dense ones 0."""
    rows = np.zeros((MODEL_LAYERS, table.shape[1]), table.dtype)
    rows[list(MOE.numbers)] = table
    return rows


def imported(
    form: str,
    *files: str,
    ranks: dict[int, str] | None = None,
    known: MoeLayers | None = MOE,
    only_counts: bool = False,
    index: LayerIndex | None = None,
    first_layer: int = 0,
    dropped_layers: frozenset[int] = frozenset(),
    experts: int | None = None,
    known_experts: int | None = None,
) -> dict[str, npt.NDArray[np.integer]]:
    """What `moeplace instance` would be given of the files."""
    chosen = RECORDINGS[form]
    found = accumulate(
        chosen,
        [InputFile.of(file) for file in files],
        ranks or {},
        only_counts=only_counts,
        first_layer=first_layer,
        dropped_layers=dropped_layers,
        experts=experts,
        known_experts=known_experts,
    )
    convention = index or layer_index_of(chosen, found, known)
    return recordings(found, convention, moe_layers_of(found, convention, known))
