"""Bringing a placement into force through the service, and waiting until the nodes have carried it out."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

import numpy as np

from lab.fleet.members import Members
from lab.fleet.scenario import MODEL_ID
from lab.harness.failures import RunFailed
from lab.harness.observation import Observation, observe
from lab.tiny_moe.shape import EXPERTS, LAYERS
from moeplace_agent.client import ServiceError
from solvers.placement import Placement

_LOOK_SECONDS = 0.25
_CONVERGE_SECONDS = 180.0


class Placed(NamedTuple):
    """What it took: seconds until every node held and routed by the placement, and the bytes copied."""

    generation: int
    seconds: float
    moves: int
    bytes_copied: int


async def place(members: Members, placement: Placement) -> Placed:
    """Put the placement, as an operator would, and wait for the nodes. Raises `RunFailed`."""
    before = await observe(members.client)
    begun = time.monotonic()
    known: Any = None if before.generation is None else await members.client.get("/placement")
    if known is None:
        headers = {"If-None-Match": "*"}
    else:
        metadata = known["metadata"]
        headers = {"If-Match": f'"{metadata["uid"]}.{metadata["generation"]}.{metadata["digest"]}"'}
    try:
        put = await members.client.put("/placement", _body(members, placement), headers=headers)
    except ServiceError as error:
        raise RunFailed(f"the service does not take the placement: {error}") from error
    generation = int(put["metadata"]["generation"])
    seen = await converged(members, generation)
    return Placed(
        generation,
        time.monotonic() - begun,
        seen.moves_succeeded - before.moves_succeeded,
        seen.bytes_done - before.bytes_done,
    )


async def converged(members: Members, generation: int = 0) -> Observation:
    """Wait until every node holds and routes by the placement in force, `generation` or a later one. Raises
    `RunFailed` where that takes too long."""
    begun = time.monotonic()
    while True:
        seen = await observe(members.client)
        if seen.generation is not None and seen.generation >= generation and seen.converged_at is not None:
            return seen
        if time.monotonic() - begun > _CONVERGE_SECONDS:
            raise RunFailed(f"the placement in force was not carried out in {_CONVERGE_SECONDS:.0f} s")
        await asyncio.sleep(_LOOK_SECONDS)


def _body(members: Members, placement: Placement) -> dict[str, Any]:
    holds = placement.holds.reshape(len(members.scenario.nodes), LAYERS, EXPERTS)
    return {
        "holds": [
            {
                "node_id": node.node_id,
                "holds": [
                    {"model_id": MODEL_ID, "layer": layer, "experts": np.flatnonzero(row).tolist()}
                    for layer, row in enumerate(held)
                    if row.any()
                ],
            }
            for node, held in zip(members.scenario.nodes, holds, strict=True)
        ]
    }
