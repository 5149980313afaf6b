"""A node's requests: each answered at its time, and told how it went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lab.fleet.dispatch import Dispatcher, ExpertUnavailable, RequestCalls, Spent
from lab.fleet.generation import Generation
from lab.fleet.lines import Failed, Finished, Play
from lab.fleet.traffic import GENERATED_TOKENS, PROMPT_TOKENS, Request
from lab.tiny_moe.model import Context
from lab.tiny_moe.shape import LAYERS, TOP_K
from lab.tiny_moe.weights import Dense
from moeplace_agent.telemetry import Recorder


class Answering:
    def __init__(
        self,
        dense: Dense,
        dispatcher: Dispatcher,
        recorder: Recorder,
        tell: Callable[[Finished | Failed], None],
    ) -> None:
        """`recorder` gets the routes of generated tokens. Those of a prompt wait together for all their
        experts, so that what one token's experts cost says nothing of them."""
        self._dense = dense
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._tell = tell
        self.in_progress = 0
        self.tokens = 0
        """Generated so far; `token_seconds` is what they took, `local` of their `activations` were served by
        the node itself."""
        self.token_seconds = 0.0
        self.local = 0
        self.activations = 0

    async def play(self, play: Play) -> None:
        """Answer all requests, each at its time."""
        async with asyncio.TaskGroup() as tasks:
            for request in play.requests:
                tasks.create_task(self._at(play.begin + request.at_seconds, request))

    async def _at(self, moment: float, request: Request) -> None:
        await asyncio.sleep(max(0.0, moment - time.time()))
        self.in_progress += 1
        try:
            self._tell(await self._answer(request))
        except ExpertUnavailable as error:
            self._tell(Failed(request.number, str(error)))
        finally:
            self.in_progress -= 1

    async def _answer(self, request: Request) -> Finished:
        calls = RequestCalls(self._dispatcher)
        context = Context(self._dense, calls)
        generation = Generation(context, request)
        begun = time.perf_counter()
        await generation.read_prompt()
        prompt_seconds = time.perf_counter() - begun
        calls.spent = Spent()
        ended: list[float] = []
        seconds: list[float] = []
        expert_seconds: list[float] = []
        for _ in range(GENERATED_TOKENS):
            begun, waited, local = time.perf_counter(), calls.spent.seconds, calls.spent.local
            await generation.step()
            seconds.append(time.perf_counter() - begun)
            expert_seconds.append(calls.spent.seconds - waited)
            ended.append(time.time())
            self.tokens += 1
            self.token_seconds += seconds[-1]
            self.local += calls.spent.local - local
            self.activations += LAYERS * TOP_K
            self._recorder.add_tokens(1)
            for layer in range(LAYERS):
                self._recorder.record(layer, context.routes[-1:, layer])
        return Finished(
            number=request.number,
            tokens=bytes(generation.tokens),
            logits=generation.logits.astype("<f4").tobytes(),
            routes=context.routes[PROMPT_TOKENS:].tobytes(),
            prompt_seconds=prompt_seconds,
            ended=ended,
            seconds=seconds,
            expert_seconds=expert_seconds,
            local=calls.spent.local,
            remote=calls.spent.remote,
            origin=calls.spent.origin,
            again=calls.spent.again,
            bytes_exchanged=calls.spent.bytes_exchanged,
        )
