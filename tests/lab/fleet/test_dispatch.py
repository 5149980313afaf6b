"""The model split between nodes: the same answers as in one process, whatever happens to the others."""

import asyncio
import contextlib

import numpy as np
import pytest

from lab.fleet.dispatch import Dispatcher, ExpertUnavailable, RequestCalls
from lab.fleet.experts import LoadedExperts
from lab.tiny_moe.model import Context, ExpertCalls, Ids
from lab.tiny_moe.texts import text
from lab.tiny_moe.weights import Dense, Float32, dense, expert, tensors
from tests.lab.fleet.boxes import ALL, Box, loaded, random_placement, served, table

pytestmark = pytest.mark.anyio

WHOLE = loaded(ALL)


@pytest.fixture(scope="module")
def weights() -> Dense:
    return dense(tensors())


class Alone:
    """Every expert in this process."""

    async def outputs(self, layer: int, hidden: Float32, experts: Ids) -> Float32:
        return np.stack(
            [
                [WHOLE.compute(layer, e, hidden[row]) for e in chosen]
                for row, chosen in enumerate(experts.tolist())
            ]
        )


async def read(dense: Dense, calls: ExpertCalls, prompt: int = 20, steps: int = 6) -> Float32:
    """The logits after a prompt, read at once, and after each of some tokens more."""
    tokens = text("novels")[300 : 300 + prompt + steps]
    context = Context(dense, calls)
    found = [await context.read(tokens[:prompt])]
    found += [await context.read(tokens[i : i + 1]) for i in range(prompt, prompt + steps)]
    return np.concatenate(found)


@pytest.mark.parametrize("seed", range(3))
async def test_any_placement_gives_the_whole_models_logits_to_the_bit(weights: Dense, seed: int) -> None:
    """Three nodes that hold experts at random and an origin; the table names some holder for each expert, a
    node that has dropped it, or nobody."""
    random = np.random.default_rng(seed)
    own, first, second = random_placement(random, 3, 0.4)
    gone = set(random_placement(random, 1, 0.4)[0])
    async with (
        served(loaded(ALL)) as origin,
        served(loaded(set(first) - gone)) as a,
        served(loaded(second)) as b,
    ):
        box = Box(own, origin)
        holders = {"a": set(first), "b": set(second)}
        routes = {}
        for address in ALL:
            names = [name for name in ("a", "b") if address in holders[name]]
            if address not in set(own) and names:
                routes[address] = [*random.permutation(names).tolist(), "origin"]
        box.table = table({"a": a, "b": b, "origin": origin}, routes)
        calls = RequestCalls(box.dispatcher)
        found = await read(weights, calls)
        await box.peers.aclose()
    assert np.array_equal(found, await read(weights, Alone()))
    spent = calls.spent
    assert min(spent.local, spent.remote, spent.origin) > 0
    assert spent.local + spent.remote + spent.origin == 26 * 6 * 2
    assert spent.again > 0


async def test_routes_may_change_in_the_middle_of_an_answer(weights: Dense) -> None:
    """Between any two calls experts come, go and are routed elsewhere: the logits stay the whole model's."""
    random = np.random.default_rng(7)
    async with served(loaded(ALL)) as origin:
        box = Box([], origin)
        away = loaded(ALL)
        async with served(away) as a:
            churning = asyncio.create_task(_churn(random, box, away, a, origin))
            found = await read(weights, RequestCalls(box.dispatcher), steps=12)
            churning.cancel()
        await box.peers.aclose()
    assert np.array_equal(found, await read(weights, Alone(), steps=12))


async def _churn(random: np.random.Generator, box: Box, away: LoadedExperts, a: str, origin: str) -> None:
    named = tensors()
    while True:
        for _ in range(12):
            address = ALL[int(random.integers(len(ALL)))]
            for experts in (box.experts, away):
                if random.random() < 0.5:
                    experts.unload(*address)
                else:
                    experts.load(*address, expert(named, *address))
        routed = [address for address in ALL if random.random() < 0.5]
        box.table = table({"a": a, "origin": origin}, {address: ["a"] for address in routed})
        await asyncio.sleep(0.005)


class Noticed(RequestCalls):
    """Says when some of the calls have been made."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher)
        self.halfway = asyncio.Event()

    async def outputs(self, layer: int, hidden: Float32, experts: Ids) -> Float32:
        if self.spent.remote > 300:
            self.halfway.set()
        return await super().outputs(layer, hidden, experts)


async def test_a_node_that_dies_in_the_middle_is_passed_over(weights: Dense) -> None:
    """Its connection ends while calls are under way: others compute what it would have."""
    async with served(loaded(ALL)) as origin, contextlib.AsyncExitStack() as stack:
        a = await stack.enter_async_context(served(loaded(ALL)))
        box = Box([], origin)
        box.table = table({"a": a, "origin": origin}, {address: ["a"] for address in ALL})
        calls = Noticed(box.dispatcher)
        reading = asyncio.create_task(read(weights, calls, steps=30))
        await calls.halfway.wait()
        await stack.aclose()
        found = await reading
        await box.peers.aclose()
    assert np.array_equal(found, await read(weights, Alone(), steps=30))
    assert calls.spent.origin > 0


async def test_a_node_that_says_nothing_is_given_up(weights: Dense) -> None:
    """It takes connections and never answers: after the timeout the next place is asked, and for a while the
    silent one is asked last."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with served(loaded(ALL)) as origin:
        box = Box([], origin, timeout_seconds=0.3)
        box.table = table(
            {"a": f"http://{host}:{port}", "origin": origin}, {address: ["a"] for address in ALL}
        )
        calls = RequestCalls(box.dispatcher)
        found = await read(weights, calls, prompt=4, steps=2)
        await box.peers.aclose()
    server.close()
    assert np.array_equal(found, await read(weights, Alone(), prompt=4, steps=2))
    assert calls.spent.again == 8
    assert calls.spent.seconds < 5


async def test_nobody_left_is_said_in_words(weights: Dense) -> None:
    """Neither a holder nor the origin: the error names the expert and its layer."""
    async with served(loaded([])) as origin:
        box = Box([], origin)
        with pytest.raises(ExpertUnavailable, match=r"expert \d+ of layer 0: no known place answers"):
            await read(weights, RequestCalls(box.dispatcher))
        await box.peers.aclose()


async def test_what_is_no_expert_call_is_turned_away() -> None:
    """Ordinary HTTP gets 426 with the protocol's name, nonsense after the upgrade is cut off, and calls of
    others go on."""
    async with served(loaded(ALL)) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: moeplace-expert-calls/1"
        )
        writer.close()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /v1/expert_calls HTTP/1.1\r\nUpgrade: moeplace-expert-calls/1\r\n\r\n" + b"\xff" * 100
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        box = Box([], url)
        hidden = np.ones((1, 128), np.float32)
        outputs, missing = await box.peers.call("origin", url, "tiny-moe", 0, hidden, [0, 0], [3, 40])
        assert missing == [1]
        assert np.array_equal(outputs[0], WHOLE.compute(0, 3, hidden[0]))
        await box.peers.aclose()
