"""The numpy model is the one that was trained."""

import numpy as np
import pytest

from lab.tiny_moe.model import Context, ExpertCalls, Ids, OwnExperts
from lab.tiny_moe.shape import CONTEXT_TOKENS, EXPERTS, LAYERS
from lab.tiny_moe.texts import DOMAINS, text
from lab.tiny_moe.traces import requests
from lab.tiny_moe.weights import Dense, Float32, dense, expert, tensors

pytestmark = pytest.mark.anyio

RECORDED_NOVELS = [*range(8), *range(32, 40), *range(48, 56)]
"""The requests of the recorded domain `novels` whose text is bundled, in its order."""


@pytest.fixture(scope="module")
def weights() -> Dense:
    return dense(tensors())


@pytest.fixture(scope="module")
def experts() -> OwnExperts:
    named = tensors()
    loaded = {(la, e): expert(named, la, e) for la in range(LAYERS) for e in range(EXPERTS)}
    return OwnExperts(lambda layer, number: loaded[layer, number])


async def routes_of(
    tokens: "np.ndarray[tuple[int], np.dtype[np.uint8]]", dense: Dense, calls: ExpertCalls
) -> Ids:
    context = Context(dense, calls)
    await context.read(tokens)
    return np.sort(context.routes, axis=2)


async def test_it_routes_held_out_text_as_was_recorded(weights: Dense, experts: OwnExperts) -> None:
    """Text that the recording was made of, by another implementation in torch: in every layer 96 % of the
    tokens or more get the same two experts, and other text does not. It would be 99.9 % with the weights as
    they were trained; those bundled are rounded, which adds up from layer to layer."""
    windows = text("novels").reshape(-1, CONTEXT_TOKENS)
    assert len(windows) == len(RECORDED_NOVELS)
    chosen = [0, 23]
    ours = np.stack([await routes_of(windows[i], weights, experts) for i in chosen])
    recorded = np.sort(requests("novels"), axis=3)
    same = (ours == recorded[[RECORDED_NOVELS[i] for i in chosen]]).all(axis=3)
    assert (same.mean(axis=(0, 1)) > 0.96).all()
    others = (ours == recorded[[100, 101]]).all(axis=3)
    assert others.mean() < 0.3


async def test_token_by_token_comes_to_the_same(weights: Dense, experts: OwnExperts) -> None:
    """Reading one token after the other gives the logits and routes of reading all at once."""
    tokens = text("man_de")[500:596]
    at_once, stepwise = Context(weights, experts), Context(weights, experts)
    expected = await at_once.read(tokens)
    found = np.concatenate([await stepwise.read(tokens[i : i + 1]) for i in range(len(tokens))])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.array_equal(stepwise.routes, at_once.routes)


class FailingOnce:
    """The experts of a layer cannot be had, the first time."""

    def __init__(self, experts: OwnExperts) -> None:
        self._experts = experts
        self._failed = False

    async def outputs(self, layer: int, hidden: Float32, experts: Ids) -> Float32:
        if layer == 4 and not self._failed:
            self._failed = True
            raise RuntimeError("gone")
        return await self._experts.outputs(layer, hidden, experts)


async def test_a_step_that_failed_can_be_taken_again(weights: Dense, experts: OwnExperts) -> None:
    """After experts could not be had in the middle of a step the context is as before."""
    tokens = text("python")[:40]
    context, unharmed = Context(weights, FailingOnce(experts)), Context(weights, experts)
    with pytest.raises(RuntimeError, match="gone"):
        await context.read(tokens)
    assert len(context) == 0
    assert np.array_equal(await context.read(tokens), await unharmed.read(tokens))


async def test_a_context_has_an_end(weights: Dense, experts: OwnExperts) -> None:
    """The 257th token is refused, and so is reading nothing."""
    context = Context(weights, experts)
    with pytest.raises(ValueError, match="257 after 0, expected at least one and 256 in all"):
        await context.read(text("novels")[:257])
    with pytest.raises(ValueError, match="0 after 0"):
        await context.read(text("novels")[:0])


async def test_bundled_text_is_of_its_domain(weights: Dense, experts: OwnExperts) -> None:
    """Each text activates the experts that were recorded for its domain more than it does any other's."""

    def shares(routes: Ids) -> Float32:
        counts = [np.bincount(routes[..., layer, :].ravel(), minlength=EXPERTS) for layer in range(LAYERS)]
        return np.stack(counts).astype(np.float32) / np.float32(routes.size / LAYERS)

    recorded = {domain: shares(requests(domain)) for domain in DOMAINS}
    for domain in DOMAINS:
        own = text(domain)
        parts = [await routes_of(own[i : i + 256], weights, experts) for i in (0, 1200)]
        ours = shares(np.concatenate(parts))
        common = {other: float(np.minimum(ours, theirs).sum()) for other, theirs in recorded.items()}
        assert max(common, key=lambda other: common[other]) == domain, common


def test_an_unknown_domain_has_no_text() -> None:
    """The message lists those there are."""
    with pytest.raises(ValueError, match=r"domain: is 'latin', expected one of python, novels"):
        text("latin")
