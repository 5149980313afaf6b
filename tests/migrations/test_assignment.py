from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from migrations.kernels.assignment import assign

_NODES = 4


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), experts=st.integers(1, 4))
def test_no_copy_could_have_a_better_sender(seed: int, experts: int) -> None:
    """Every copy has one of its senders that is in reach, leads back to one that has the expert from the
    start, and none could change its own for another that does so that the sum of loads ** 24 falls."""
    rng = np.random.default_rng(seed)
    node: list[int] = []
    sender: list[int] = []
    before: list[int] = []
    start = [0]
    for _ in range(experts):
        missing = np.flatnonzero(rng.random(_NODES) < 0.6).tolist()
        held = [n for n in range(_NODES) if n not in missing] + [_NODES]
        first = len(node)
        for n in missing:
            node.append(n)
            for m in [*held, *(other for other in missing if other != n)]:
                sender.append(m)
                before.append(first + missing.index(m) if m in missing else -1)
            start.append(len(sender))
    if not node:
        return
    receive = rng.uniform(0.1, 1.0, len(sender))
    send = rng.uniform(0.1, 1.0, len(sender))
    far = rng.random(len(sender)) < 0.2
    receive[far] = send[far] = np.inf
    share = rng.random(len(sender))
    chosen = assign(
        np.array(start), np.array(sender), np.array(before), np.array(node), receive, send, share
    ).tolist()

    def leads_back(choice: list[int], i: int) -> bool:
        for _ in range(len(node)):
            if choice[i] < 0 or before[choice[i]] < 0:
                return choice[i] >= 0
            i = before[choice[i]]
        return False

    def total(choice: list[int]) -> float:
        load = np.zeros((2, _NODES + 1))
        for i, entry in enumerate(choice):
            if entry >= 0:
                load[0, node[i]] += receive[entry]
                load[1, sender[entry]] += send[entry]
        return float((load**24).sum())

    for i in range(len(node)):
        entries = [entry for entry in range(start[i], start[i + 1]) if np.isfinite(receive[entry])]
        assert (chosen[i] in entries and leads_back(chosen, i)) or chosen[i] < 0
        for entry in entries:
            other = [*chosen[:i], entry, *chosen[i + 1 :]]
            if chosen[i] < 0:
                assert not leads_back(other, i)
            elif leads_back(other, i):
                assert total(other) >= total(chosen) * (1 - 1e-6)
