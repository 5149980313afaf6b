"""tiny-moe's forward pass with the experts left to somebody else.

A context keeps the keys and values of what it has read, so that the next tokens cost only themselves. In
each layer the hidden states and the ids of their experts are handed to `ExpertCalls`, which may compute
them here, or anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lab.tiny_moe.arithmetic import feed_forward, rms_norm, softmax
from lab.tiny_moe.shape import CONTEXT_TOKENS, HEADS, LAYERS, TOP_K, VOCABULARY, WIDTH
from lab.tiny_moe.weights import Dense, Expert, Float32

Ids = npt.NDArray[np.uint8]
_HEAD_WIDTH = WIDTH // HEADS
_SCALE = np.float32(_HEAD_WIDTH**-0.5)


class ExpertCalls(Protocol):
    async def outputs(self, layer: int, hidden: Float32, experts: Ids) -> Float32:
        """What each of `experts` uint8[tokens, 2] makes of its row of `hidden` float32[tokens, 128]:
        float32[tokens, 2, 128]."""
        ...


class OwnExperts:
    """All of the model's experts in this process."""

    def __init__(self, experts: Callable[[int, int], Expert]) -> None:
        """`experts(layer, number)`"""
        self._experts = experts

    async def outputs(self, layer: int, hidden: Float32, experts: Ids) -> Float32:
        made = np.empty((*experts.shape, WIDTH), np.float32)
        for row, ids in enumerate(experts.tolist()):
            for slot, expert in enumerate(ids):
                made[row, slot] = feed_forward(hidden[row], self._experts(layer, expert))
        return made


class Context:
    """What a request has read so far. `routes` uint8[tokens, 6, 2]: the experts its tokens activated."""

    def __init__(self, dense: Dense, calls: ExpertCalls) -> None:
        self._dense = dense
        self._calls = calls
        self._length = 0
        shape = (LAYERS, HEADS, CONTEXT_TOKENS, _HEAD_WIDTH)
        self._keys: Float32 = np.empty(shape, np.float32)
        self._values: Float32 = np.empty(shape, np.float32)
        self._routes = np.empty((CONTEXT_TOKENS, LAYERS, TOP_K), np.uint8)

    def __len__(self) -> int:
        return self._length

    @property
    def routes(self) -> Ids:
        return self._routes[: self._length]

    async def read(self, tokens: npt.NDArray[np.uint8]) -> Float32:
        """Read the next tokens at once; the logits float32[tokens, 256] of what may follow each.

        Raises ValueError where the context would grow beyond 256 tokens. When it fails or is cancelled, the
        context is as it was.
        """
        begin, end = self._length, self._length + len(tokens)
        if not begin < end <= CONTEXT_TOKENS:
            raise ValueError(
                f"tokens: {len(tokens)} after {begin}, expected at least one and {CONTEXT_TOKENS} in all"
            )
        dense = self._dense
        hidden: Float32 = dense.embedding[tokens] + dense.positions[begin:end]
        for layer, weights in enumerate(dense.layers):
            attended = self._attend(layer, rms_norm(hidden, weights.attention_norm) @ weights.qkv, begin, end)
            hidden = hidden + attended @ weights.out
            normed = rms_norm(hidden, weights.experts_norm)
            shares = softmax(normed @ weights.router)
            chosen = np.argsort(-shares, axis=1, kind="stable")[:, :TOP_K].astype(np.uint8)
            self._routes[begin:end, layer] = chosen
            weight = shares[np.arange(end - begin)[:, None], chosen]
            weight /= np.add.reduce(weight, axis=1, keepdims=True)
            made = await self._calls.outputs(layer, normed, chosen)
            hidden += np.add.reduce(weight[:, :, None] * made, axis=1)
        self._length = end
        logits: Float32 = rms_norm(hidden, dense.norm) @ dense.head
        assert logits.shape == (len(tokens), VOCABULARY)
        return logits

    def _attend(self, layer: int, qkv: Float32, begin: int, end: int) -> Float32:
        count = end - begin
        queries, keys, values = qkv.reshape(count, 3, HEADS, _HEAD_WIDTH).transpose(1, 2, 0, 3)
        self._keys[layer, :, begin:end] = keys
        self._values[layer, :, begin:end] = values
        scores = queries @ self._keys[layer, :, :end].transpose(0, 2, 1) * _SCALE
        if count > 1:
            later = np.arange(end) > np.arange(begin, end)[:, None]
            scores = np.where(later, np.float32(-np.inf), scores)
        attended: Float32 = softmax(scores) @ self._values[layer, :, :end]
        return attended.transpose(1, 0, 2).reshape(count, WIDTH)
