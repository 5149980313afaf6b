"""The whole model in one process: what the fleet's answers must be. `python -m lab.fleet.reference`"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.fleet.generation import Generation
from lab.fleet.lines import Expected, Play
from lab.fleet.process import ENVIRONMENT, Lines, run_process
from lab.fleet.traffic import GENERATED_TOKENS, PROMPT_TOKENS, Request
from lab.harness.children import started_lines
from lab.tiny_moe.model import Context, OwnExperts
from lab.tiny_moe.shape import EXPERTS, LAYERS
from lab.tiny_moe.weights import Dense, dense, expert, tensors


class WholeModel:
    def __init__(self) -> None:
        named = tensors()
        self._dense: Dense = dense(named)
        loaded = {
            (layer, number): expert(named, layer, number)
            for layer in range(LAYERS)
            for number in range(EXPERTS)
        }
        self._experts = OwnExperts(lambda layer, number: loaded[layer, number])

    async def answer(self, request: Request) -> Expected:
        context = Context(self._dense, self._experts)
        generation = Generation(context, request)
        await generation.read_prompt()
        for _ in range(GENERATED_TOKENS):
            await generation.step()
        return Expected(
            number=request.number,
            tokens=bytes(generation.tokens),
            logits=generation.logits.astype("<f4").tobytes(),
            routes=context.routes[PROMPT_TOKENS:].tobytes(),
        )


async def answers_of_whole_model(directory: Path, requests: Sequence[Request]) -> dict[int, Expected]:
    """By the request's number, from a process set up like those of the nodes. Raises `RunFailed`."""
    found: dict[int, Expected] = {}
    done = asyncio.Event()

    def hear(told: Expected) -> None:
        found[told.number] = told
        if len(found) == len(requests):
            done.set()

    log = directory / "reference.log"
    async with started_lines(
        "the whole model", "lab.fleet.reference", log, Play(0.0, list(requests)), ENVIRONMENT
    ) as lines:
        hearing = asyncio.create_task(lines.hear(hear, Expected))
        failing = asyncio.create_task(lines.child.failed())
        waiting: list[asyncio.Future[Any]] = [asyncio.create_task(done.wait()), failing]
        try:
            if requests:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                raise failing.result()
        finally:
            for task in (hearing, *waiting):
                task.cancel()
    return found


async def _run(lines: Lines) -> None:
    model = WholeModel()
    while (play := await lines.read(Play)) is not None:
        for request in play.requests:
            lines.tell(await model.answer(request))


if __name__ == "__main__":
    run_process(_run)
