"""Answers and reports as tests need them."""

from __future__ import annotations

import numpy as np

from lab.fleet.lines import Finished
from lab.fleet.measurement import Agreement, Figures, Step
from lab.fleet.report import Episode, Report, Row, TimeLine
from lab.fleet.scenario import Scenario, imposed_words, scenario


def fleet(nodes: int = 3) -> Scenario:
    return scenario(
        nodes,
        delay_seconds=0.02,
        origin_delay_seconds=0.1,
        bytes_per_second=1e6,
        requests_per_second=1.0,
        seed=0,
    )


def finished(number: int, routes: np.ndarray, seconds: list[float], ended: list[float]) -> Finished:
    return Finished(
        number=number,
        tokens=bytes(len(seconds)),
        logits=np.zeros(256, "<f4").tobytes(),
        routes=routes.astype(np.uint8).tobytes(),
        prompt_seconds=0.5,
        ended=ended,
        seconds=seconds,
        expert_seconds=[0.9 * s for s in seconds],
        local=6 * len(seconds),
        remote=4 * len(seconds),
        origin=2 * len(seconds),
        again=1,
        bytes_exchanged=1000 * len(seconds),
    )


def row(name: str, milliseconds: float, predicted: float) -> Row:
    figures = Figures(10, 320, milliseconds / 1e3, 0.95 * milliseconds / 1e3, 0.3, 0.6, 0.01, 0, 4000.0, 0.4)
    return Row(name, predicted / 1e3, predicted / 1e3, figures, 3.0, 40, 4_000_000)


def report(*, same_bits: int = 40) -> Report:
    def episode(after: float) -> Episode:
        figures = row("x", 100, 100).figures
        steps = [Step(2.0 * i, 50, 0.1 if i < 5 else after) for i in range(15)]
        return Episode(steps, figures, figures._replace(token_seconds=after), 2, 9_000_000)

    described = fleet()
    line = TimeLine(30.0, 10.0, 2.0, 20.0, described.swapped, episode(0.2), episode(0.12))
    rows = [row("uniform", 200, 170), row("certified", 100, 90)]
    return Report(described, imposed_words(described), 3000, rows, line, Agreement(40, 40, same_bits, 0.0), 0)
