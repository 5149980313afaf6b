"""Answering a request: read its prompt, then draw one token after the other."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from app.fleet.traffic import GENERATED_TOKENS, TEMPERATURE, Request
from app.tiny_moe.model import Context
from app.tiny_moe.weights import Float32


async def generate(
    context: Context, request: Request, stepped: Callable[[float], None] = lambda _: None
) -> tuple[bytes, Float32]:
    """The tokens drawn, and the logits float32[256] after the last of them.

    The prompt is read at once, each token drawn in a step of its own, of which `stepped` is told the seconds.
    The draws depend on the request's seed and the logits only.
    """
    random = np.random.default_rng(request.seed)
    logits = (await context.read(request.prompt))[-1]
    drawn = bytearray()
    for _ in range(GENERATED_TOKENS):
        noise = random.gumbel(size=logits.shape)
        token = int(np.argmax(logits / TEMPERATURE + noise))
        drawn.append(token)
        begun = time.perf_counter()
        logits = (await context.read(np.array([token], np.uint8)))[-1]
        stepped(time.perf_counter() - begun)
    return bytes(drawn), logits
