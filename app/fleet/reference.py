"""The whole model in one process: what the fleet's answers must be. `python -m app.fleet.reference`"""

from __future__ import annotations

from app.fleet.generation import Generation
from app.fleet.lines import Expected, Play
from app.fleet.process import Lines, run_process
from app.fleet.traffic import GENERATED_TOKENS, PROMPT_TOKENS, Request
from app.tiny_moe.model import Context, OwnExperts
from app.tiny_moe.shape import EXPERTS, LAYERS
from app.tiny_moe.weights import Dense, dense, expert, tensors


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


async def _run(lines: Lines) -> None:
    model = WholeModel()
    while (play := await lines.read(Play)) is not None:
        for request in play.requests:
            lines.tell(await model.answer(request))


if __name__ == "__main__":
    run_process(_run)
