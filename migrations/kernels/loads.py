"""Who is needed how long: counted anew from time to time, as it changes slowly."""

from __future__ import annotations

import numpy as np

from migrations.kernels.arrays import State
from migrations.kernels.bits import has, members, put
from migrations.kernels.rules import Rules
from solvers.compiled import compiled


@compiled
def recount(state: State, rules: Rules) -> None:
    """Set the senders' loads, which of them are scarce, and which columns make room. O(N + E W + holders of
    what is wanted), W the words of a set."""
    nodes, experts = state.pairs.shape
    state.clock[0]["recount_in"] = rules.recount_every
    if rules.room > 0.0:
        _find_making_room(state, rules.room)
    if rules.refresh_every > 0:
        if state.clock[0]["counts"] % rules.refresh_every == 0:
            for column in range(experts):
                state.columns[column]["dirty"] = 1
        state.clock[0]["counts"] += 1
    running = state.clock[0]["running"]
    first_run = np.full(experts, -1)  # of each column, and after each run the next of its column
    next_run = np.full(running, -1)
    for r in range(running - 1, -1, -1):
        next_run[r] = first_run[state.runs[r]["column"]]
        first_run[state.runs[r]["column"]] = r
    load = np.zeros(nodes + 1)
    there = np.empty(nodes + 1, np.int64)
    for column in range(experts):
        if state.columns[column]["wanted"] == 0:
            continue
        serving = members(state.holders, column, there)
        count = state.columns[column]["arriving"] + serving - 1  # the origin is a holder
        size = state.columns[column]["size"]
        if count == 0:
            load[nodes] += size
            continue
        for i in range(serving - 1):
            load[there[i]] += size / count
        run = first_run[column]
        while run >= 0:
            load[state.runs[run]["node"]] += size / count
            run = next_run[run]
    left = max(rules.bound - state.clock[0]["seconds"], 0.0) * rules.urgency
    for w in range(state.scarce.shape[1]):
        state.scarce[0, w] = 0
    for m in range(nodes + 1):
        load[m] *= state.nodes[m]["out_pace"] / state.nodes[m]["slots"]
        state.nodes[m]["load"] = load[m]
        if load[m] > left and load[m] > 0.0:
            put(state.scarce, 0, m)


@compiled
def _find_making_room(state: State, room: float) -> None:
    """The columns that nodes with room for less than `room` of what they wait for could drop once one more
    copy of them is in place."""
    nodes, experts = state.pairs.shape
    for column in range(experts):
        state.columns[column]["making_room"] = 0
    for n in range(nodes):
        largest = 0
        for i in range(state.nodes[n]["waiting"]):
            largest = max(largest, state.columns[state.pending[n, i]]["size"])
        if largest == 0:
            continue
        free = 0
        for device in range(state.first_device[n], state.first_device[n + 1]):
            free += state.free[device]
        for i in range(state.nodes[n]["spares"]):
            column = state.surplus[n, i]
            if can_drop(state, n, column):
                free += state.columns[column]["size"]
        if free >= room * largest:
            continue
        for i in range(state.nodes[n]["spares"]):
            column = state.surplus[n, i]
            if state.columns[column]["spare"] <= 0 and state.columns[column]["arriving"] == 0:
                state.columns[column]["making_room"] = 1


@compiled
def can_drop(state: State, node: int, column: int) -> bool:
    """The node serves the column, nobody reads it there, it can be spared, and it need not stay parked."""
    if state.columns[column]["spare"] <= 0 or state.pairs[node, column]["reading"] > 0:
        return False
    if not has(state.holders, column, node):
        return False
    return not (state.pairs[node, column]["parked"] != 0 and state.columns[column]["wanted"] != 0)
