"""Requests of the fleet."""

from itertools import pairwise

import numpy as np

from lab.fleet.traffic import PROMPT_TOKENS, Swap, arrivals
from lab.tiny_moe.texts import text

DOMAINS = {"edge-a": "python", "edge-b": "novels", "edge-c": "man_de"}


def test_the_same_seed_gives_the_same_requests() -> None:
    """Another seed gives others, and a node's own do not depend on which others there are."""
    one = arrivals(DOMAINS, seed=(3, 1), per_second=2.0, seconds=30)
    assert one == arrivals(DOMAINS, seed=(3, 1), per_second=2.0, seconds=30)
    assert one != arrivals(DOMAINS, seed=(3, 2), per_second=2.0, seconds=30)
    alone = arrivals({"edge-a": "python"}, seed=(3, 1), per_second=2.0, seconds=30)
    first = [(r.at_seconds, r.offset, r.seed) for r in one if r.node_id == "edge-a"]
    assert [(r.at_seconds, r.offset, r.seed) for r in alone] == first


def test_arrivals_are_a_poisson_process() -> None:
    """At each node the gaps have the mean and the spread of an exponential distribution, and every request
    begins within its domain's text."""
    requests = arrivals(DOMAINS, seed=(0,), per_second=4.0, seconds=500)
    assert [r.number for r in requests] == list(range(len(requests)))
    assert all(a.at_seconds <= b.at_seconds for a, b in pairwise(requests))
    for node_id, domain in DOMAINS.items():
        own = [r for r in requests if r.node_id == node_id]
        gaps = np.diff([r.at_seconds for r in own])
        assert abs(gaps.mean() - 0.25) < 0.02
        assert abs(gaps.std() - 0.25) < 0.03
        assert all(len(r.prompt) == PROMPT_TOKENS for r in own)
        assert max(r.offset for r in own) <= len(text(domain)) - PROMPT_TOKENS


def test_a_swap_changes_domains_and_nothing_else() -> None:
    """Arrivals stay; from the swap on, and not before, the named nodes have the other domains."""
    swap = Swap(10.0, {"edge-a": "novels", "edge-b": "python"})
    before = arrivals(DOMAINS, seed=(1,), per_second=3.0, seconds=20)
    after = arrivals(DOMAINS, seed=(1,), per_second=3.0, seconds=20, swap=swap)
    assert [(r.node_id, r.at_seconds, r.seed) for r in before] == [
        (r.node_id, r.at_seconds, r.seed) for r in after
    ]
    for plain, swapped in zip(before, after, strict=True):
        late = plain.at_seconds >= 10.0
        assert swapped.domain == (swap.domains.get(plain.node_id, plain.domain) if late else plain.domain)
