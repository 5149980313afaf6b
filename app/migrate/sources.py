"""Where a copy is read when the planned source will not do."""

from collections.abc import Set as AbstractSet

import numpy as np

from app.migrate.execution import Source
from app.migration_plans.schemas import PlannedMove
from app.statistics.fleet import Fleet, UnknownExpert
from migrations.model import ORIGIN, Limits
from migrations.timing import copy_rates
from solvers.problem import PlacementProblem, UInt8


def choose_source(
    fleet: Fleet,
    problem: PlacementProblem,
    serving: UInt8,
    limits: Limits,
    move: PlannedMove,
    tried: AbstractSet[str | None],
) -> Source | None:
    """The planned source while it is untried and serves the expert; else the fastest one that does.

    serving uint8[N, E]: copies of live nodes that are not being withdrawn. Sources already tried come last,
    the origin (None in `tried`) included. None when nobody has the expert.
    """
    try:
        row = fleet.row(move.destination)
        column = fleet.column(move.model_id, move.layer, move.expert)
    except UnknownExpert:
        return None
    rates = copy_rates(problem, limits)[:, row]
    able = [
        (fleet.node_ids[holder], float(rates[holder]))
        for holder in np.flatnonzero(serving[:, column]).tolist()
        if holder != row and rates[holder] > 0
    ]
    candidates: list[tuple[str | None, float]] = [*able]
    if rates[ORIGIN] > 0:
        candidates.append((None, float(rates[ORIGIN])))
    if not candidates:
        return None
    planned = None if move.from_origin else move.source
    best = min(
        candidates,
        key=lambda found: (
            found[0] in tried,
            found[0] != planned,
            -found[1],
            found[0] is None,
            found[0] or "",
        ),
    )
    return Source(best[0])
