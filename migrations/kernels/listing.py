"""Event-driven list scheduling: which copy starts when, and from where."""

from __future__ import annotations

from typing import Any

import numpy as np

from migrations.kernels.arrays import Ints, State, Words
from migrations.kernels.bits import has, lowest
from migrations.kernels.drops import make_room
from migrations.kernels.events import start, step
from migrations.kernels.latency import appraise
from migrations.kernels.loads import recount
from migrations.kernels.rules import DECLINED, LAY_OUT, NOTHING, STARTED, Rules
from solvers.compiled import compiled

_TIERS = 6
SPARED = 2
"""In `failed`: there is no room as long as the node keeps what it is to send."""

_GIVEN = 4  # of these, from the sender that an allocation gives


@compiled
def run(state: State, rules: Rules) -> tuple[int, int, int]:
    """Go on until nothing runs and nothing can start, or a node's devices have to be laid out anew for a
    copy: its source, node and column then, else three times -1."""
    wanted = np.full(3, -1, np.int64)
    patient = True
    while True:
        outcome = _start_copies(state, rules, patient, wanted)
        if outcome == LAY_OUT:
            return wanted[0], wanted[1], wanted[2]
        if state.clock[0]["running"] == 0:
            if outcome != DECLINED:
                return -1, -1, -1
            patient = False  # nothing better comes of waiting
            for n in range(state.failed.shape[0]):
                for kind in range(state.failed.shape[1]):
                    if state.failed[n, kind] == SPARED:
                        state.failed[n, kind] = 0
            continue
        patient = True
        step(state)


@compiled
def _start_copies(state: State, rules: Rules, patient: bool, wanted: Ints) -> int:
    """Receivers take their turn by the seconds of copies they still wait for, longest first; where `strict`
    those that pass something on earlier, as much as the whole plan takes."""
    nodes, experts = state.pairs.shape
    if state.clock[0]["recount_in"] <= 0:
        recount(state, rules)
    if rules.refresh_every > 0:
        for column in range(experts):
            if state.columns[column]["dirty"] != 0:
                state.columns[column]["dirty"] = 0
                appraise(state, column)
    for m in range(nodes + 1):
        state.nodes[m]["claims"] = 0.0
    turn = np.empty(nodes, np.int64)
    remaining = np.empty(nodes, np.float64)
    receivers = 0
    for n in range(nodes):
        if state.nodes[n]["waiting"] > 0 and state.nodes[n]["receiving"] < state.receives:
            turn[receivers], remaining[receivers] = n, -state.nodes[n]["remaining"]
            if rules.strict and _passes_on(state, n):
                remaining[receivers] -= rules.bound
            receivers += 1
    outcome = NOTHING
    for i in np.argsort(remaining[:receivers], kind="mergesort"):  # the first among equals before others
        n = turn[i]
        while state.nodes[n]["waiting"] > 0 and state.nodes[n]["receiving"] < state.receives:
            if state.most > 0 and state.clock[0]["running"] >= state.most:
                return outcome
            got = _start_best(state, rules, n, patient, wanted)
            if got == LAY_OUT:
                return LAY_OUT
            if got == DECLINED:
                outcome = DECLINED
            if got == STARTED and rules.strict and not patient:
                return outcome
            if got != STARTED:
                break
    return outcome


@compiled
def _passes_on(state: State, node: int) -> bool:
    """The node waits for something that it is to send on, and needs no copy of."""
    for i in range(state.nodes[node]["waiting"]):
        if not has(state.target, state.pending[node, i], node):
            return True
    return False


@compiled
def _start_best(state: State, rules: Rules, node: int, patient: bool, wanted: Ints) -> int:
    """Start the most urgent or most valuable copy into the node that can start now."""
    none: Any = np.int64(-1)
    masks = _senders(state, node)
    words = masks.shape[1]
    some = False
    for w in range(words):
        if masks[1, w] != 0:
            some = True
    if not some:
        return DECLINED if rules.strict and patient else NOTHING
    while True:
        best, source, best_tier, best_score = none, none, _TIERS, -1.0
        late, busy, late_tier, late_score = none, none, _TIERS, -1.0
        for i in range(state.nodes[node]["waiting"]):
            column = state.pending[node, i]
            if state.failed[node, state.columns[column]["kind"]] != 0:
                continue
            score = state.pairs[node, column]["gain"] / state.columns[column]["size"] ** (1.0 - rules.bulk)
            tier = 0 if state.columns[column]["making_room"] != 0 else 2
            given = state.pairs[node, column]["sender"] - 1 if rules.by_flow else none
            if rules.strict and state.pairs[node, column]["planned"] > 0:
                tier = 0  # others wait for it
            tiers = _GIVEN if rules.strict and patient and given >= 0 else _TIERS
            while tier < tiers and _before(tier, score, column, best_tier, best_score, best):
                mask = tier if tier < 2 else tier - 2
                able = False
                for w in range(words):
                    if _ready(state, column, masks, mask, given, w) != 0:
                        able = True
                if able:
                    idle, waits_for = _choose_source(state, node, column, masks, mask, given)
                    if waits_for < 0:
                        best, source, best_tier, best_score = column, idle, tier, score
                        break
                    if _before(tier, score, column, late_tier, late_score, late):
                        late, busy, late_tier, late_score = column, waits_for, tier, score
                tier += 1
        if best < 0:
            if late >= 0:
                seconds = state.columns[late]["size"] * state.pace[busy, node]
                state.nodes[busy]["claims"] += seconds
            return DECLINED if rules.strict and patient else NOTHING
        got = make_room(state, rules, node, best, patient)
        if got == STARTED:
            start(state, source, node, best)
            return got
        if got != NOTHING:
            wanted[0], wanted[1], wanted[2] = source, node, best
            return got
        state.failed[node, state.columns[best]["kind"]] = SPARED if rules.strict and patient else 1


@compiled
def _senders(state: State, node: int) -> Words:
    """uint64[2, W]: the idle senders the node can copy from: 0 the scarce ones, 1 all."""
    words = state.idle.shape[1]
    masks = np.zeros((2, words), np.uint64)
    for w in range(words):
        masks[1, w] = state.idle[0, w] & state.reach[node, w]
        masks[0, w] = masks[1, w] & state.scarce[0, w]
    return masks


@compiled
def _ready(state: State, column: int, masks: Words, mask: int, given: int, w: int) -> Any:
    """Word w of the senders of the column that are: 0 scarce, and given by the allocation; 1 given; 2 scarce;
    3 all that are idle. All count as given where none is."""
    word = state.holders[column, w] & masks[mask % 2, w]
    if mask >= 2 or given < 0:
        return word
    return word & np.uint64(1) << np.uint64(given % 64) if given // 64 == w else np.uint64(0)


@compiled
def _before(tier: int, score: float, column: int, other: int, its_score: float, its_column: int) -> bool:
    if tier != other:
        return tier < other
    if score != its_score:
        return score > its_score
    return column < its_column


@compiled
def _choose_source(
    state: State, node: int, column: int, masks: Words, mask: int, given: int
) -> tuple[int, int]:
    """(sender that is `_ready` from which the copy ends first, -1), or (it, a busy sender worth waiting for).

    Among equally fast ones the one with the least load, so that scarce senders stay free, and peers before
    the origin. A busy sender is worth waiting for where its present copy, the seconds others already claimed
    of it, and then this copy end before an idle sender would end it. O(holders).
    """
    best, finish, least = -1, np.inf, np.inf
    size = state.columns[column]["size"]
    for w in range(state.idle.shape[1]):
        word = _ready(state, column, masks, mask, given, w)
        while word != 0:
            m = 64 * w + lowest(word)
            word &= word - np.uint64(1)
            seconds = size * state.pace[m, node]
            if seconds < finish or (seconds == finish and state.nodes[m]["load"] < least):
                best, finish, least = m, seconds, state.nodes[m]["load"]
    waiting = -1
    for w in range(state.idle.shape[1]):
        word = state.holders[column, w] & state.reach[node, w] & ~state.idle[0, w]
        while word != 0:
            m = 64 * w + lowest(word)
            word &= word - np.uint64(1)
            seconds = size * state.pace[m, node]
            if seconds >= finish:
                continue
            until = state.nodes[m]["claims"] + seconds - state.clock[0]["seconds"]
            until += state.nodes[m]["free_at"]
            if until < finish:
                waiting, finish = m, until
    return best, waiting
