"""Which experts a router chooses for hidden states, computed in float64 from its weights and its paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Choice = Callable[[Any, Float64], Float64]
"""From a router and hidden states [tokens, width] to scores [tokens, experts]; the highest are chosen."""


def _array(tensor: Any) -> Float64:
    array: Float64 = tensor.detach().numpy().astype(np.float64)
    return array


def logits(router: Any, hidden: Float64) -> Float64:
    """The plain linear router, with or without softmax or sigmoid: neither changes the order."""
    scores: Float64 = hidden @ _array(router.weight).T
    return scores


def biased_logits(router: Any, hidden: Float64) -> Float64:
    """GPT-OSS."""
    return logits(router, hidden) + _array(router.bias)


def group_limited(router: Any, hidden: Float64) -> Float64:
    """DeepSeek-V2 (group_limited_greedy): only the groups with the best single expert."""
    scores = logits(router, hidden)
    return _within_groups(router, scores, scores.reshape(len(scores), router.num_group, -1).max(axis=2))


def bias_corrected(router: Any, hidden: Float64) -> Float64:
    """DeepSeek-V3 and GLM-4: sigmoid plus a bias, only the groups with the best pair of experts."""
    scores = 1 / (1 + np.exp(-logits(router, hidden))) + _array(router.e_score_correction_bias)
    grouped = np.sort(scores.reshape(len(scores), router.num_group, -1), axis=2)
    return _within_groups(router, scores, grouped[:, :, -2:].sum(axis=2))


def _within_groups(router: Any, scores: Float64, of_groups: Float64) -> Float64:
    chosen = np.argsort(-of_groups, axis=1)[:, : router.topk_group]
    group = np.arange(scores.shape[1]) // (scores.shape[1] // router.num_group)
    inside = (group[None, :, None] == chosen[:, None, :]).any(axis=2)
    return np.where(inside, scores, -np.inf)


def chosen(scores: Float64, top_k: int) -> Ids:
    """The `top_k` highest of each row, ascending; a tie within rounding would make the test depend on it."""
    order = np.argsort(-scores, axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    assert (ranked[:, top_k - 1] - ranked[:, top_k] > 1e-5).all()
    return np.sort(order[:, :top_k], axis=1)
