"""Requests to the fleet: Poisson arrivals, each node with text of its own domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from lab.tiny_moe.texts import text

PROMPT_TOKENS = 24
GENERATED_TOKENS = 32
TEMPERATURE = 0.8


class Request(msgspec.Struct, frozen=True):
    """Continue the text of `domain` after the bytes at `offset`. It arrives at `node_id` `at_seconds` after
    the beginning; `seed` draws its tokens."""

    number: int
    node_id: str
    at_seconds: float
    domain: str
    offset: int
    seed: int

    @property
    def prompt(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return text(self.domain)[self.offset : self.offset + PROMPT_TOKENS]


class Swap(msgspec.Struct, frozen=True):
    """From `at_seconds` on, requests at these nodes are of these domains."""

    at_seconds: float
    domains: dict[str, str]


def arrivals(
    domains: Mapping[str, str],
    *,
    seed: Sequence[int],
    per_second: float,
    seconds: float,
    swap: Swap | None = None,
) -> list[Request]:
    """Requests of `seconds`, in order of arrival; `domains`: node_id -> domain; `per_second`: at each node.

    Each node has a stream of random numbers of its own: the requests of one do not depend on the others.
    """
    found = []
    for index, (node_id, own) in enumerate(domains.items()):
        random = np.random.default_rng([*seed, index])
        at = random.exponential(1.0 / per_second)
        while at < seconds:
            domain = own
            if swap is not None and at >= swap.at_seconds:
                domain = swap.domains.get(node_id, own)
            place, drawn = random.random(), int(random.integers(2**32))
            offset = int(place * (len(text(domain)) - PROMPT_TOKENS))
            found.append((at, node_id, domain, offset, drawn))
            at += random.exponential(1.0 / per_second)
    return [
        Request(number, node_id, at, domain, offset, drawn)
        for number, (at, node_id, domain, offset, drawn) in enumerate(sorted(found))
    ]
