"""The released moves of each node, as the documents that agents poll."""

import hashlib
from collections.abc import Mapping

import numpy as np
import orjson

from app.migrate.execution import Execution
from app.migration_plans.schemas import ReleasedMove, ReleasedMoves, ReleasedMovesMetadata
from app.observe.observation import Observation
from app.publish.assignments import device_of_columns
from app.storage.documents import EncodedDocument, encode_document
from migrations.model import MoveKind
from solvers.problem import PlacementProblem


def orders(
    execution: Execution | None, observation: Observation, problem: PlacementProblem
) -> dict[str, list[ReleasedMove]]:
    """node_id -> its released moves in the plan's order, for every registered node."""
    fleet = observation.fleet
    by_node: dict[str, list[ReleasedMove]] = {node_id: [] for node_id in fleet.node_ids}
    if execution is None:
        return by_node
    devices: dict[int, Mapping[int, str]] = {}
    for move_id in execution.outstanding:
        move, progress = execution.moves[move_id], execution.progress[move_id]
        block = fleet.block_index.get((move.model_id, move.layer))
        row = fleet.rows.get(move.destination)
        if block is None or row is None:
            continue
        model = fleet.models[fleet.model_index[move.model_id]]
        column = int(fleet.block_offset[block]) + move.expert
        copies = move.kind is MoveKind.COPY
        device_id = None
        if copies:
            if row not in devices:
                desired = np.zeros(fleet.experts, np.uint8)
                if observation.in_force is not None:
                    desired = observation.in_force.holds[row]
                devices[row] = device_of_columns(problem, fleet, row, desired)
            device_id = devices[row].get(column)
        source = fleet.rows.get(progress.source) if progress.source is not None else None
        url = None
        if copies and progress.from_origin:
            origin = observation.cluster.settings.origin
            url = model.origin_url or (None if origin is None else origin.base_url)
        elif source is not None:
            spec = fleet.nodes[source].spec
            url = spec.experts_url or spec.base_url
        digests = next(entry.expert_digests for entry in model.blocks if entry.layer == move.layer)
        by_node[move.destination].append(
            ReleasedMove(
                move_id=move_id,
                plan_id=execution.record.plan_id,
                kind=move.kind,
                model_id=move.model_id,
                layer=move.layer,
                expert=move.expert,
                bytes=move.bytes,
                device_id=device_id,
                source_node_id=progress.source,
                source_url=url,
                expert_digest=None if digests is None or not copies else digests[move.expert],
                attempt=progress.attempts,
                rate_limit_bytes_per_second=execution.record.rate_limit_bytes_per_second if copies else None,
            )
        )
    return by_node


def encode_orders(
    uid: str, generation: int, node_id: str, moves: list[ReleasedMove], mark: str
) -> EncodedDocument:
    """With a `mark` never used before, no version comes back: a node that says it goes by it has read these
    orders, not others before that said the same."""
    content = orjson.dumps([move.model_dump(mode="json") for move in moves])
    digest = f"{hashlib.sha256(content).hexdigest()[:16]}-{mark}"
    body = ReleasedMoves(
        metadata=ReleasedMovesMetadata(uid=uid, generation=generation, digest=digest),
        node_id=node_id,
        moves=moves,
    )
    return encode_document(body.model_dump_json().encode(), uid=uid, generation=generation, digest=digest)
