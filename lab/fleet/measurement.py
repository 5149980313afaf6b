"""What was measured of the requests that nodes have answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from lab.fleet.lines import Expected, Finished


class Figures(NamedTuple):
    """Over generated tokens. `token_seconds`: mean of everything a token took; `expert_seconds`: of that,
    waiting for experts, all layers; `p95_seconds`: what 95 % of the tokens did not exceed. The ratios are of
    the activations: computed by the node itself, and by the origin; the rest by other nodes. `asked_again`:
    activations that had to be asked of a further place. `prompt_seconds`: mean per prompt."""

    requests: int
    tokens: int
    token_seconds: float
    expert_seconds: float
    p95_seconds: float
    local_ratio: float
    origin_ratio: float
    asked_again: int
    bytes_per_token: float
    prompt_seconds: float

    @property
    def remote_ratio(self) -> float:
        """Activations computed elsewhere, the origin included."""
        return 1.0 - self.local_ratio


def figures(finished: Iterable[Finished]) -> Figures:
    """Raises ValueError where there is no token."""
    found = list(finished)
    seconds = np.array([s for one in found for s in one.seconds])
    if not seconds.size:
        raise ValueError("finished: has no tokens, expected at least one")
    local, origin = sum(one.local for one in found), sum(one.origin for one in found)
    activations = local + origin + sum(one.remote for one in found)
    return Figures(
        requests=len(found),
        tokens=int(seconds.size),
        token_seconds=float(seconds.mean()),
        expert_seconds=float(np.mean([s for one in found for s in one.expert_seconds])),
        p95_seconds=float(np.quantile(seconds, 0.95)),
        local_ratio=local / activations,
        origin_ratio=origin / activations,
        asked_again=sum(one.again for one in found),
        bytes_per_token=sum(one.bytes_exchanged for one in found) / seconds.size,
        prompt_seconds=float(np.mean([one.prompt_seconds for one in found])),
    )


class Step(NamedTuple):
    """Tokens done in a step of time from `at_seconds` on: how many, and the mean of what one took."""

    at_seconds: float
    tokens: int
    token_seconds: float


def time_line(finished: Iterable[Finished], begin: float, step_seconds: float) -> list[Step]:
    """In order of time, from `begin` (seconds since the epoch); steps in which no token was done are left
    out."""
    found = list(finished)
    ended = np.array([at for one in found for at in one.ended]) - begin
    seconds = np.array([s for one in found for s in one.seconds])
    index = (ended // step_seconds).astype(np.int64)
    return [
        Step(step * step_seconds, int((index == step).sum()), float(seconds[index == step].mean()))
        for step in np.unique(index).tolist()
    ]


class Agreement(NamedTuple):
    """How the fleet's answers compare with those of the whole model in one process. `same_bits`: all of the
    last logits; `largest_difference`: of any of them."""

    requests: int
    same_tokens: int
    same_bits: int
    largest_difference: float

    def together(self, other: Agreement) -> Agreement:
        """Of both."""
        return Agreement(
            self.requests + other.requests,
            self.same_tokens + other.same_tokens,
            self.same_bits + other.same_bits,
            max(self.largest_difference, other.largest_difference),
        )


def agreement(finished: Mapping[int, Finished], expected: Mapping[int, Expected]) -> Agreement:
    """Of all requests in `finished`, by number."""
    tokens = bits = 0
    largest = 0.0
    for number, told in finished.items():
        right = expected[number]
        tokens += told.tokens == right.tokens and told.routes == right.routes
        bits += told.logits == right.logits
        ours, theirs = np.frombuffer(told.logits, "<f4"), np.frombuffer(right.logits, "<f4")
        largest = max(largest, float(np.abs(ours - theirs).max()))
    return Agreement(len(finished), tokens, bits, largest)
