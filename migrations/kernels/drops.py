"""What a node drops so that a copy fits."""

from __future__ import annotations

import numpy as np

from migrations.kernels.arrays import Floats, Ints, State
from migrations.kernels.bits import members
from migrations.kernels.events import drop, place_of, roomiest
from migrations.kernels.loads import can_drop
from migrations.kernels.rules import DECLINED, LAY_OUT, NOTHING, STARTED, Rules
from solvers.compiled import compiled


@compiled
def make_room(state: State, rules: Rules, node: int, column: int, patient: bool) -> int:
    """Drop what costs least per byte for the column to fit, on the device where the fewest have to go.

    STARTED where it fits now, NOTHING where it can't; DECLINED where `patient` and the drops cost more than
    the copy saves; LAY_OUT where only the devices' layout is in the way. O(droppable * (N + drops)).
    """
    size = state.columns[column]["size"]
    if state.free[roomiest(state, node)] >= size:
        return STARTED
    chosen, key, droppable = candidates(state, rules, node, patient and rules.strict)
    first, last = state.first_device[node], state.first_device[node + 1]
    best = np.empty(len(chosen), np.int64)
    picked = np.empty(len(chosen), np.int64)
    fewest, least = len(chosen) + 1, np.inf
    for device in range(first, last):
        count, cost = _pick(state, node, device, size - state.free[device], chosen, key, picked)
        if count >= 0 and (count < fewest or (count == fewest and cost < least)):
            fewest, least = count, cost
            for i in range(count):
                best[i] = picked[i]
    if fewest <= len(chosen):
        if patient and rules.patience > 0.0 and least > state.pairs[node, column]["gain"]:
            left = (rules.bound - state.clock[0]["seconds"]) * rules.patience
            if state.nodes[node]["remaining"] < left:
                return DECLINED
        for i in range(fewest):
            drop(state, node, best[i])
        return STARTED
    free = droppable
    for device in range(first, last):
        free += state.free[device]
    return LAY_OUT if last - first > 1 and free >= size else NOTHING


@compiled
def candidates(state: State, rules: Rules, node: int, sparing: bool) -> tuple[Ints, Floats, int]:
    """The columns the node may drop, their keys (the least goes first) and their bytes. `sparing`: none that
    an allocation still has it send."""
    spares = state.nodes[node]["spares"]
    chosen, key = np.empty(spares, np.int64), np.empty(spares, np.float64)
    count, droppable, highest = 0, 0, 0.0
    for i in range(spares):
        column = state.surplus[node, i]
        needed = sparing and state.columns[column]["wanted"] > 0 and state.pairs[node, column]["planned"] > 0
        if not needed and can_drop(state, node, column):
            size = state.columns[column]["size"]
            chosen[count], key[count] = column, state.pairs[node, column]["loss"] / size
            highest = max(highest, key[count])
            droppable += size
            count += 1
    if not rules.by_loss:
        for i in range(count):
            key[i] += _reluctance(state, node, chosen[i]) * (2.0 * highest + 1e-300)
    return chosen[:count], key[:count], droppable


@compiled
def _reluctance(state: State, node: int, column: int) -> int:
    """0: nobody waits for the column. It is a source: 1, one that this node should be: 2, the last one: 3."""
    if state.columns[column]["wanted"] == 0:
        return 0
    there = np.empty(len(state.nodes), np.int64)
    if members(state.holders, column, there) > 2:  # the node, the origin, and another
        return 2 if state.pairs[node, column]["planned"] > 0 else 1
    return 3


@compiled
def _pick(
    state: State, node: int, device: int, need: int, chosen: Ints, key: Floats, picked: Ints
) -> tuple[int, float]:
    """Write into `picked` the candidates of the device to drop for `need` bytes; how many, -1 where all are
    too few, and what they cost."""
    used = np.zeros(len(chosen), np.bool_)
    taken = 0
    while need > 0:
        least = -1
        for i in range(len(chosen)):
            if used[i] or place_of(state, node, chosen[i]) != device:
                continue
            if least < 0 or key[i] < key[least] or (key[i] == key[least] and chosen[i] < chosen[least]):
                least = i
        if least < 0:
            return -1, 0.0
        used[least] = True
        picked[taken] = chosen[least]
        taken += 1
        need -= state.columns[chosen[least]]["size"]
    kept, cost = 0, 0.0
    for i in range(taken):  # one that a later, larger one made needless stays
        column = picked[i]
        if need + state.columns[column]["size"] <= 0:
            need += state.columns[column]["size"]
        else:
            picked[kept] = column
            cost += state.pairs[node, column]["loss"]
            kept += 1
    return kept, cost
