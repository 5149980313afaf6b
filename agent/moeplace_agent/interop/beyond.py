"""Ids beyond the experts: those of shared experts that an engine fused into the routed ones."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.observations import Observation

_NUMBERS = re.compile(r"(\[\d+)\]\[")
"""Of `table[3][0,2]`, which is shown as `table[3,0,2]`."""


def advice(experts: int) -> str:
    """What such ids are, and what to do."""
    return (
        "ids beyond the experts are of shared experts fused into the routed ones: start SGLang with "
        f"--disable-shared-experts-fusion, or leave them out with --experts {experts}"
    )


def without_beyond(seen: Observation, limit: int | None, known: int | None) -> tuple[Observation, float]:
    """The observation without ids from `limit` on, and how many activations those were. Counts that are
    longer than the model has experts (`known`) lose the zeros behind.

    `InteropError` where it has ids beyond the experts that the file says there are, or that the model has.
    """
    left_out = 0.0
    seen = _without_none(seen, next((n for n in (limit, seen.experts, known) if n is not None), None))
    if limit is not None:
        seen, left_out = _cut(seen, limit)
    for experts in (seen.experts, known):
        if experts is not None:
            _refuse_beyond(seen, experts)
    if known is not None:
        seen, _ = _cut(seen, known)
    expected = limit if known is None else known
    return (seen if seen.experts is not None else replace(seen, experts=expected)), left_out


def _without_none(seen: Observation, experts: int | None) -> Observation:
    """-1 where an id says none; `InteropError` where the experts are not known and nothing else tells: tokens
    with several experts name the last of 256 beside others, and -1 for all at once."""
    none, routes = seen.maybe_none, seen.routes
    if none is None or routes is None or not (routes == none).any():
        return seen
    if experts is not None:
        return seen if experts > none else replace(seen, routes=np.where(routes == none, -1, routes))
    if routes.shape[1] == 1:
        token = int(np.argmax(routes[:, 0] == none))
        raise InteropError(
            f"{seen.key}[{token}]: is {none}, an expert or none, expected --experts, --model-config or "
            "--preset to say how many experts there are"
        )
    return seen


def _cut(seen: Observation, limit: int) -> tuple[Observation, float]:
    experts = None if seen.experts is None else min(seen.experts, limit)
    if seen.counts is not None:
        left_out = float(seen.counts[limit:].sum())
        return replace(seen, counts=seen.counts[:limit], experts=experts), left_out
    assert seen.routes is not None
    beyond = seen.routes >= limit
    return replace(seen, routes=np.where(beyond, -1, seen.routes), experts=experts), float(beyond.sum())


def _refuse_beyond(seen: Observation, experts: int) -> None:
    if seen.routes is not None:
        places = np.argwhere(seen.routes >= experts)
        expert = int(seen.routes[tuple(places[0])]) if len(places) else 0
    else:
        assert seen.counts is not None
        places = np.argwhere(seen.counts[experts:]) + experts
        expert = int(places[0, 0]) if len(places) else 0
    if len(places):
        place = f"{seen.key}[{','.join(map(str, places[0].tolist()))}]"
        place = _NUMBERS.sub(r"\1,", place)
        raise InteropError(
            f"{place}: is {expert}, expected less than the {experts} experts there are ({advice(experts)})"
        )
