"""Whether a placement that somebody wants can be served: what is named exists, and everything fits."""

from collections.abc import Sequence

import numpy as np

from app.clusters.schemas import ClusterSettings
from app.errors import FieldError
from app.placements.schemas import NodeHoldings
from app.statistics.fleet import Fleet, UInt8, UnknownExpert
from moeplace_agent.wording import counted

MAX_FAULTS = 100


def faults_of(
    fleet: Fleet, settings: ClusterSettings, holds: Sequence[NodeHoldings]
) -> tuple[FieldError, ...]:
    """Each fault with its place in `{"holds": ...}`; none when it can come into force. CPU-bound.

    Memory, packing on devices and coverage are judged by the solvers' rules, the ones by which the service
    places itself.
    """
    matrix = np.zeros(fleet.shape, np.uint8)
    faults: list[FieldError] = []
    places: dict[int, int] = {}
    for index, node in enumerate(holds):
        place = f"/holds/{index}"
        row = fleet.rows.get(node.node_id)
        if row is None:
            faults.append(
                FieldError(f"{place}/node_id", f"node {node.node_id} is not registered", "UNKNOWN_NODE")
            )
            continue
        if row in places:
            detail = f"node {node.node_id} was named before, expected each once"
            faults.append(FieldError(f"{place}/node_id", detail, "REPEATED_NODE"))
            continue
        places[row] = index
        if fleet.nodes[row].draining and any(held.experts for held in node.holds):
            detail = f"node {node.node_id} is draining, expected it to hold nothing"
            faults.append(FieldError(f"{place}/holds", detail, "DRAINING_NODE"))
        faults.extend(_fill(fleet, node, place, matrix[row]))
        if len(faults) > MAX_FAULTS:
            break
    if faults:
        return tuple(faults[:MAX_FAULTS])
    return tuple(_shortfalls(fleet, settings, matrix, places))


def _fill(fleet: Fleet, node: NodeHoldings, place: str, row: UInt8) -> list[FieldError]:
    faults: list[FieldError] = []
    for index, held in enumerate(node.holds):
        entry = f"{place}/holds/{index}"
        try:
            block = fleet.block(held.model_id, held.layer)
        except UnknownExpert as error:
            faults.append(FieldError(f"{entry}/{error.part}", error.detail, f"UNKNOWN_{error.part.upper()}"))
            continue
        offset, count = int(fleet.block_offset[block]), int(fleet.experts_per_block[block])
        for position, expert in enumerate(held.experts):
            if expert >= count:
                detail = f"is {expert}, expected an expert in 0..{count - 1}"
                faults.append(FieldError(f"{entry}/experts/{position}", detail, "UNKNOWN_EXPERT"))
            elif row[offset + expert]:
                detail = f"expert {expert} was named before at this node, expected each once"
                faults.append(FieldError(f"{entry}/experts/{position}", detail, "REPEATED_EXPERT"))
            else:
                row[offset + expert] = 1
            if len(faults) > MAX_FAULTS:
                return faults
    return faults


def _shortfalls(
    fleet: Fleet, settings: ClusterSettings, matrix: UInt8, places: dict[int, int]
) -> list[FieldError]:
    # Compiled code comes with them: not before somebody asks.
    from app.statistics.problem import build_problem
    from app.statistics.statistics import Statistics
    from solvers.feasible.packing import pack
    from solvers.feasible.violations import shortfalls

    if not fleet.nodes:
        return [FieldError("/holds", "no node is registered, expected at least one", "NO_NODES")]
    problem = build_problem(
        fleet,
        settings,
        Statistics(traffic={}, until_us=None),
        holds=np.zeros(fleet.shape, np.uint8),
        live=set(fleet.node_ids),
        statuses={},
    ).problem
    faults: list[FieldError] = []
    used = matrix.astype(np.int64) @ problem.column_bytes
    for row, index in places.items():
        capacity = int(problem.capacity_bytes[row])
        if used[row] > capacity:
            detail = f"its experts have {used[row]} bytes, expected at most the node's {capacity}"
            faults.append(FieldError(f"/holds/{index}/holds", detail, "OUT_OF_MEMORY"))
        elif pack(problem, row, np.flatnonzero(matrix[row]).astype(np.int64)) is None:
            detail = "its experts do not fit on its devices one by one, though on their sum"
            faults.append(FieldError(f"/holds/{index}/holds", detail, "CANNOT_BE_PACKED"))
    replicas = matrix.sum(axis=0, dtype=np.int64)
    missing = np.flatnonzero(replicas < problem.min_replicas)
    if len(missing):
        first = fleet.address(int(missing[0]))
        detail = (
            f"experts held by fewer than {counted(problem.min_replicas, 'node')}: {len(missing)}, the first "
            f"expert {first.expert} of layer {first.layer} of {first.model_id} by {replicas[missing[0]]}"
        )
        faults.append(FieldError("/holds", detail, "NOT_COVERED"))
    if not faults:
        # Whatever else the solvers hold a placement to.
        faults.extend(FieldError("/holds", words, "NOT_FEASIBLE") for words in shortfalls(problem, matrix))
    return faults
