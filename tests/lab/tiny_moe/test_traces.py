"""The bundled routing and its replay."""

import numpy as np
import pytest

from lab.demo.scenario import NODES
from lab.tiny_moe.shape import CONTEXT_TOKENS, EXPERTS, LAYERS, TOP_K
from lab.tiny_moe.traces import Replay, domains, requests


def test_bundled_traces_are_real_top_2_routing() -> None:
    """Eight domains of 160 requests; two different experts in every layer of every token."""
    assert len(domains()) == 8
    for domain in domains():
        routes = requests(domain)
        assert routes.shape == (160, CONTEXT_TOKENS, LAYERS, TOP_K)
        assert int(routes.max()) < EXPERTS
        assert (routes[..., 0] != routes[..., 1]).all()


def test_domains_of_the_demo_differ() -> None:
    """A domain's busiest quarter of experts takes more of its own activations than of another's."""
    shares = np.array(
        [
            np.stack(
                [np.bincount(requests(n.domain)[:, :, la].ravel(), minlength=EXPERTS) for la in range(LAYERS)]
            )
            for n in NODES
        ],
        float,
    )
    shares /= shares.sum(axis=2, keepdims=True)
    top = np.argsort(-shares, axis=2)[:, :, : EXPERTS // 4]
    hit = np.array([[np.take_along_axis(b, t, axis=1).sum(axis=1).mean() for b in shares] for t in top])
    own = np.diag(hit)
    others = (hit.sum(axis=0) - own) / (len(NODES) - 1)
    assert (own > others + 0.1).all()


def test_every_request_comes_once_before_any_comes_again() -> None:
    """A round is a permutation, rounds differ, and the same seed gives the same stream."""
    replay = Replay("novels", 7)
    first, second = replay.take(160), replay.take(160)
    assert sorted(first) == sorted(second) == list(range(160))
    assert first != second
    assert Replay("novels", 7).take(160) == first
    assert Replay("novels", 8).take(160) != first


def test_a_switched_replay_draws_from_the_other_domain() -> None:
    """After the switch the stream is that of a replay begun with the new domain."""
    replay = Replay("novels", 7)
    replay.take(3)
    replay.switch("man_ja")
    assert replay.domain == "man_ja"
    assert replay.take(5) == Replay("man_ja", 7).take(5)


def test_an_unknown_domain_is_named() -> None:
    """The message lists those there are."""
    with pytest.raises(ValueError, match=r"domain: is 'latin', expected one of python, c, novels"):
        requests("latin")
