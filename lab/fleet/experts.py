"""The experts that a process has loaded, ready to be computed with."""

from __future__ import annotations

import numpy as np

from lab.fleet.frames import PROBE_LAYER, Call, Float32
from lab.tiny_moe.arithmetic import feed_forward
from lab.tiny_moe.shape import INNER, WIDTH
from lab.tiny_moe.weights import Expert


class LoadedExperts:
    """By layer and number. Not thread-safe: changed and used on the event loop, a call at a time."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._loaded: dict[tuple[int, int], Expert] = {}
        random = np.random.default_rng(0)
        up = random.standard_normal((WIDTH, INNER), np.float32) / np.float32(WIDTH**0.5)
        down = random.standard_normal((INNER, WIDTH), np.float32) / np.float32(INNER**0.5)
        self._probe = Expert(up, down)
        self.served = 0
        """Expert computations done for others."""

    def __contains__(self, address: object) -> bool:
        return address in self._loaded

    def __len__(self) -> int:
        return len(self._loaded)

    def load(self, layer: int, number: int, weights: Expert) -> None:
        self._loaded[layer, number] = weights

    def unload(self, layer: int, number: int) -> None:
        self._loaded.pop((layer, number), None)

    def compute(self, layer: int, number: int, hidden: Float32) -> Float32:
        """What the expert makes of one hidden state float32[128]; KeyError where it is not loaded."""
        return feed_forward(hidden, self._loaded[layer, number])

    def probe(self) -> Float32:
        """As much work as one expert call."""
        return feed_forward(np.ones(WIDTH, np.float32), self._probe)

    def answer(self, call: Call, hidden: Float32) -> tuple[Float32, list[int]]:
        """The outputs of a call's pairs float32[pairs, 128], and the pairs whose expert is not loaded."""
        outputs = np.zeros((len(call.rows), WIDTH), np.float32)
        missing: list[int] = []
        known = call.model_id == self._model_id
        for pair, (row, number) in enumerate(zip(call.rows, call.experts, strict=True)):
            if call.layer == PROBE_LAYER:
                outputs[pair] = feed_forward(hidden[row], self._probe)
            elif known and (call.layer, number) in self._loaded:
                outputs[pair] = self.compute(call.layer, number, hidden[row])
                self.served += 1
            else:
                missing.append(pair)
        return outputs, missing
