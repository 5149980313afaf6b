"""Kernels of the per-block tables V_b(k): the best saving over the k-subsets of a block, with the subset."""

import numpy as np

from solvers.kernels.compiled import compiled
from solvers.problem import Float64, Int8, Int32, UInt8
from solvers.tolerances import SAME_COST


@compiled
def value_of(
    held: UInt8, modular: Float64, term_experts: Int32, term_size: Int32, term_weight: Float64, terms: int
) -> float:
    """Saving of the set held uint8[E_b]. Nothing is modified. O(E_b + terms K)."""
    value = 0.0
    for e in range(held.shape[0]):
        if held[e] != 0:
            value += modular[e]
    for t in range(terms):
        inside = True
        for k in range(term_size[t]):
            if held[term_experts[t, k]] == 0:
                inside = False
                break
        if inside:
            value += term_weight[t]
    return value


@compiled
def exact_table(
    state: Int8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
    terms: int,
    scratch: Float64,
    values: Float64,
    sets: UInt8,
) -> None:
    """values[k] = max saving over the k-subsets that hold every e with state[e] = 1 and none with -1.

    All subsets are enumerated: the terms are put on their subset, and the sum over the subsets of every set
    is one fast zeta transform. state int8[E_b], scratch float64[2^E_b or more]. Writes scratch, values
    float64[E_b + 1] (-inf where no such subset exists) and sets uint8[E_b + 1, E_b]; the least bit mask wins
    among equals. O(2^E_b E_b + terms K).
    """
    experts = state.shape[0]
    full = 1 << experts
    for mask in range(full):
        scratch[mask] = 0.0
    forced = 0
    forbidden = 0
    for e in range(experts):
        scratch[1 << e] += modular[e]
        if state[e] > 0:
            forced |= 1 << e
        elif state[e] < 0:
            forbidden |= 1 << e
    for t in range(terms):
        mask = 0
        for k in range(term_size[t]):
            mask |= 1 << term_experts[t, k]
        scratch[mask] += term_weight[t]
    for e in range(experts):
        bit = 1 << e
        for low in range(0, full, 2 * bit):
            for mask in range(low, low + bit):
                scratch[mask + bit] += scratch[mask]
    best = np.full(experts + 1, -1, np.int64)
    for k in range(experts + 1):
        values[k] = -np.inf
    for mask in range(full):
        if mask & forced != forced or mask & forbidden != 0:
            continue
        bits = mask
        k = 0
        while bits != 0:
            bits &= bits - 1
            k += 1
        if best[k] < 0 or scratch[mask] > values[k]:
            values[k] = scratch[mask]
            best[k] = mask
    for k in range(experts + 1):
        for e in range(experts):
            sets[k, e] = 1 if best[k] >= 0 and best[k] >> e & 1 else 0


@compiled
def _record(size: int, value: float, held: UInt8, values: Float64, sets: UInt8) -> None:
    if value > values[size]:
        values[size] = value
        for e in range(held.shape[0]):
            sets[size, e] = held[e]


@compiled
def _drop(
    state: Int8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
    terms: int,
    incidence: Int32,
    incident: Int32,
    values: Float64,
    sets: UInt8,
) -> None:
    """From every allowed expert, drops the one whose loss is least until only forced ones remain."""
    experts = state.shape[0]
    held = np.zeros(experts, np.uint8)
    loss = np.zeros(experts, np.float64)
    size = 0
    value = 0.0
    for e in range(experts):
        if state[e] >= 0:
            held[e] = 1
            size += 1
            loss[e] = modular[e]
            value += modular[e]
    alive = np.zeros(terms, np.uint8)
    for t in range(terms):
        inside = True
        for k in range(term_size[t]):
            if held[term_experts[t, k]] == 0:
                inside = False
        if inside:
            alive[t] = 1
            value += term_weight[t]
            for k in range(term_size[t]):
                loss[term_experts[t, k]] += term_weight[t]
    while True:
        _record(size, value, held, values, sets)
        least = -1
        for e in range(experts):
            if held[e] != 0 and state[e] == 0 and (least < 0 or loss[e] <= loss[least]):
                least = e
        if least < 0:
            return
        value -= loss[least]
        held[least] = 0
        size -= 1
        for position in range(incidence[least], incidence[least + 1]):
            t = incident[position]
            if alive[t] != 0:
                alive[t] = 0
                for k in range(term_size[t]):
                    loss[term_experts[t, k]] -= term_weight[t]


@compiled
def _add(
    state: Int8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
    terms: int,
    incidence: Int32,
    incident: Int32,
    foresight: float,
    fixed_order: bool,
    values: Float64,
    sets: UInt8,
) -> None:
    """From the forced experts, adds the one with the largest gain + foresight * share, its share being what
    the terms it does not complete would give, divided among the experts they miss. `fixed_order` keeps the
    first scores, which is the order of the modular surrogate."""
    experts = state.shape[0]
    held = np.zeros(experts, np.uint8)
    gain = modular.copy()
    share = np.zeros(experts, np.float64)
    missing = np.zeros(terms, np.int32)
    size = 0
    value = 0.0
    for t in range(terms):
        missing[t] = term_size[t]
        for k in range(term_size[t]):
            if state[term_experts[t, k]] < 0:
                missing[t] = -1  # never complete
                break
        if missing[t] > 0:
            for k in range(term_size[t]):
                share[term_experts[t, k]] += term_weight[t] / missing[t]
    first_score = gain + foresight * share
    forced = 0
    for e in range(experts):
        if state[e] > 0:
            forced += 1
    if forced == 0:
        _record(0, 0.0, held, values, sets)
    while True:
        chosen = -1
        for e in range(experts):
            if held[e] != 0 or state[e] < 0 or (size < forced and state[e] == 0):
                continue
            if chosen < 0:
                chosen = e
            elif fixed_order:
                if first_score[e] > first_score[chosen]:
                    chosen = e
            elif gain[e] + foresight * share[e] > gain[chosen] + foresight * share[chosen]:
                chosen = e
        if chosen < 0:
            return
        value += gain[chosen]
        held[chosen] = 1
        size += 1
        for position in range(incidence[chosen], incidence[chosen + 1]):
            t = incident[position]
            if missing[t] < 0:
                continue
            before = missing[t]
            missing[t] -= 1
            for k in range(term_size[t]):
                e = term_experts[t, k]
                if held[e] != 0:
                    continue
                if before >= 2:
                    share[e] -= term_weight[t] / before
                if missing[t] >= 2:
                    share[e] += term_weight[t] / missing[t]
                elif missing[t] == 1:
                    gain[e] += term_weight[t]
        if size >= forced:
            _record(size, value, held, values, sets)


@compiled
def _exchange(
    state: Int8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
    terms: int,
    steps: int,
    held: UInt8,
    value: float,
    gain: Float64,
    both: Float64,
) -> float:
    """Swaps one held for one absent expert, the best pair each time, while that helps; at most `steps` times.
    Modifies held uint8[E_b]; gain float64[E_b] and both float64[E_b, E_b] are scratch. Returns the value
    reached."""
    experts = state.shape[0]
    for _ in range(steps):
        # gain: what adding an absent expert gives, or dropping a held one costs; both: the part of the gain
        # of an absent expert j that needs the held expert i
        for i in range(experts):
            gain[i] = modular[i]
            for j in range(experts):
                both[i, j] = 0.0
        for t in range(terms):
            absent = -1
            missing = 0
            for k in range(term_size[t]):
                e = term_experts[t, k]
                if held[e] == 0:
                    absent = e
                    missing += 1
                    if missing > 1:
                        break
            if missing == 0:
                for k in range(term_size[t]):
                    gain[term_experts[t, k]] += term_weight[t]
            elif missing == 1:
                gain[absent] += term_weight[t]
                for k in range(term_size[t]):
                    both[term_experts[t, k], absent] += term_weight[t]
        best = SAME_COST * abs(value)
        out = -1
        into = -1
        for i in range(experts):
            if held[i] == 0 or state[i] != 0:
                continue
            for j in range(experts):
                if held[j] != 0 or state[j] < 0:
                    continue
                change = gain[j] - both[i, j] - gain[i]
                if change > best:
                    best = change
                    out = i
                    into = j
        if out < 0:
            return value
        held[out] = 0
        held[into] = 1
        value += best
    return value


@compiled
def incident_terms(experts: int, term_experts: Int32, term_size: Int32, terms: int) -> tuple[Int32, Int32]:
    """The terms of every expert: incident[incidence[e] : incidence[e + 1]]."""
    incidence = np.zeros(experts + 1, np.int32)
    for t in range(terms):
        for k in range(term_size[t]):
            incidence[term_experts[t, k] + 1] += 1
    for e in range(experts):
        incidence[e + 1] += incidence[e]
    incident = np.empty(incidence[experts], np.int32)
    cursor = incidence[:-1].copy()
    for t in range(terms):
        for k in range(term_size[t]):
            e = term_experts[t, k]
            incident[cursor[e]] = t
            cursor[e] += 1
    return incidence, incident


@compiled
def drop_table(
    state: Int8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
    terms: int,
    values: Float64,
    sets: UInt8,
) -> None:
    """As `greedy_table`, by greedy-drop alone. O(E_b^2 + terms K)."""
    experts = state.shape[0]
    for k in range(experts + 1):
        values[k] = -np.inf
    incidence, incident = incident_terms(experts, term_experts, term_size, terms)
    _drop(state, modular, term_experts, term_size, term_weight, terms, incidence, incident, values, sets)


@compiled
def greedy_table(
    state: Int8,
    modular: Float64,
    term_experts: Int32,
    term_size: Int32,
    term_weight: Float64,
    terms: int,
    exchange_steps: int,
    values: Float64,
    sets: UInt8,
) -> None:
    """As `exact_table`, from below: the best of greedy-add (with and without foresight), the modular
    surrogate's order and greedy-drop, each k then improved by at most `exchange_steps` one-exchanges. Writes
    values float64[E_b + 1] and sets uint8[E_b + 1, E_b]. O(E_b^2 + terms K^2), and O(E_b exchange_steps
    (terms K + E_b^2)) for the exchanges.
    """
    experts = state.shape[0]
    for k in range(experts + 1):
        values[k] = -np.inf
    incidence, incident = incident_terms(experts, term_experts, term_size, terms)
    _drop(state, modular, term_experts, term_size, term_weight, terms, incidence, incident, values, sets)
    if terms == 0:
        return  # a modular saving: dropping the least is exact
    for foresight, fixed_order in ((1.0, False), (1e-6, False), (1.0, True)):
        _add(
            state,
            modular,
            term_experts,
            term_size,
            term_weight,
            terms,
            incidence,
            incident,
            foresight,
            fixed_order,
            values,
            sets,
        )
    if exchange_steps > 0:
        gain = np.empty(experts, np.float64)
        both = np.empty((experts, experts), np.float64)
        for k in range(1, experts):
            if values[k] > -np.inf:
                values[k] = _exchange(
                    state,
                    modular,
                    term_experts,
                    term_size,
                    term_weight,
                    terms,
                    exchange_steps,
                    sets[k],
                    values[k],
                    gain,
                    both,
                )
