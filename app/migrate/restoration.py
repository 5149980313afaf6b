"""An earlier generation comes into force again, where the fleet of today can hold it."""

import asyncio

import numpy as np
from redis.asyncio import Redis

from app.migrate.planning import names_of
from app.observe.observation import Observation
from app.placements.schemas import ROLLBACK, Evidence, PlacementDocument
from app.publish.publication import publish_matrix
from app.storage.documents import read_document
from app.storage.keys import ClusterKeys
from app.storage.lease import Lease
from app.storage.records import read_record
from solvers.feasible.violations import shortfalls
from solvers.problem import PlacementProblem, UInt8


class CannotRestore(Exception):
    """Why the generation cannot come into force again, in words."""


async def holds_of_generation(
    redis: Redis, keys: ClusterKeys, generation: int, observation: Observation
) -> UInt8:
    """uint8[N, E]; raises `CannotRestore` where the generation was pruned."""
    key = keys.placement_generation(generation)
    stored = await read_document(redis, key)
    if stored is None:
        raise CannotRestore(f"generation {generation} is not retained")
    document = await asyncio.to_thread(read_record, PlacementDocument, stored.json, key)
    return await asyncio.to_thread(
        observation.fleet.matrix_of_holdings, document.spec.holds, ignore_unknown=True
    )


async def restore(
    redis: Redis,
    lease: Lease,
    observation: Observation,
    problem: PlacementProblem,
    generation: int,
    holds: UInt8,
    reason: str,
) -> PlacementDocument:
    """Bring what the generation held into force again, over the nodes that may hold anything today.

    problem: nodes and settings of today, it needs no traffic. Raises `CannotRestore` where that breaks a
    constraint (nodes have left, drain or have less memory, experts have to be held more often), and as
    `publish_matrix` does.
    """
    fleet, usable = observation.fleet, observation.usable
    may_hold = np.array([node_id in usable for node_id in fleet.node_ids], np.uint8)
    left = holds * may_hold[:, None]
    broken = await asyncio.to_thread(_broken, observation, problem, holds, left)
    if broken is not None:
        raise CannotRestore(f"generation {generation} cannot come into force again: {broken}")
    return await publish_matrix(redis, lease, observation, left, Evidence.without_solve(ROLLBACK, reason))


def _broken(observation: Observation, problem: PlacementProblem, holds: UInt8, left: UInt8) -> str | None:
    """What is wrong with `left`, in words: where it is for nodes that may hold nothing, they are named."""
    names = names_of(observation.fleet, observation.usable, observation.live)

    def words(held: UInt8) -> tuple[str, ...]:
        return shortfalls(problem, held, node=names.node, expert=names.expert_of)

    broken = words(left)
    return (words(holds) + broken)[0] if broken else None
