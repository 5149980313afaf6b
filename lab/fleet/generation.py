"""Answering a request: read its prompt, then draw one token after the other."""

from __future__ import annotations

import numpy as np

from lab.fleet.traffic import TEMPERATURE, Request
from lab.tiny_moe.model import Context
from lab.tiny_moe.shape import VOCABULARY
from lab.tiny_moe.weights import Float32


class Generation:
    """The draws depend on the request's seed and the logits only: wherever the experts are computed, the same
    tokens come of it."""

    def __init__(self, context: Context, request: Request) -> None:
        self._context = context
        self._prompt = request.prompt
        self._random = np.random.default_rng(request.seed)
        self.tokens = bytearray()
        """Drawn so far."""
        self.logits: Float32 = np.zeros(VOCABULARY, np.float32)
        """float32[256] after the last token read."""

    async def read_prompt(self) -> None:
        """At once, as engines do it."""
        self.logits = (await self._context.read(self._prompt))[-1]

    async def step(self) -> None:
        """Draw the next token, and read it."""
        noise = self._random.gumbel(size=VOCABULARY)
        token = int(np.argmax(self.logits / TEMPERATURE + noise))
        self.tokens.append(token)
        self.logits = (await self._context.read(np.array([token], np.uint8)))[-1]
