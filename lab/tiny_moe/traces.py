"""The bundled routing of tiny-moe, and its replay as requests of one context each."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from lab.tiny_moe.shape import CONTEXT_TOKENS, LAYERS, TOP_K

UInt8 = npt.NDArray[np.uint8]


@cache
def domains() -> tuple[str, ...]:
    """Names of the text domains that were recorded."""
    with resources.as_file(_file()) as path, np.load(path, allow_pickle=False) as recorded:
        return tuple(recorded.files)


@cache
def requests(domain: str) -> UInt8:
    """uint8[160 requests, 256 tokens, 6 layers, 2]: the experts each token of a domain activated."""
    with resources.as_file(_file()) as path, np.load(path, allow_pickle=False) as recorded:
        if domain not in recorded.files:
            raise ValueError(f"domain: is {domain!r}, expected one of {', '.join(recorded.files)}")
        routes: UInt8 = recorded[domain]
    shaped = routes.reshape(-1, CONTEXT_TOKENS, LAYERS, TOP_K)
    shaped.flags.writeable = False
    return shaped


def _file() -> resources.abc.Traversable:
    return resources.files("lab.tiny_moe") / "traces.npz"


class Replay:
    """An endless stream of a domain's requests, in a random order that `seed` fixes; every request comes
    once before any comes again."""

    def __init__(self, domain: str, seed: int) -> None:
        self._seed = seed
        self.switch(domain)

    def switch(self, domain: str) -> None:
        """Go on with another domain."""
        self._count = len(requests(domain))
        self.domain = domain
        self._random = np.random.default_rng([self._seed, *domain.encode()])
        self._order: list[int] = []

    def take(self, count: int) -> list[int]:
        """Numbers of the next `count` requests of the domain."""
        taken: list[int] = []
        for _ in range(count):
            if not self._order:
                self._order = self._random.permutation(self._count).tolist()
            taken.append(self._order.pop())
        return taken
