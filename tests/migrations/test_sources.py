from __future__ import annotations

import numpy as np

from migrations.cluster import Cluster
from migrations.diff import difference
from migrations.model import Limits
from migrations.sources import BusySenders, Wait, choose_source
from tests.migrations.instances import random_change


def _waits(seed: int) -> tuple[list[bool], list[bool]]:
    """What both say of every expert and node of a random cluster, with random senders busy and claimed."""
    rng = np.random.default_rng(seed)
    change = random_change(
        rng,
        nodes=6,
        blocks=3,
        experts=6,
        copies=2.0,
        fill=1.0,
        origin=bool(seed % 2),
        min_replicas=1,
        equal_sizes=bool(seed % 3),
    )
    assert change is not None
    problem = change.problem
    moved = difference(problem, change.source, change.target)
    cluster = Cluster(problem, moved, Limits(max_sends=2), np.zeros((problem.nodes, problem.experts)))
    now = float(rng.uniform(0, 5))
    idle = 0
    for m, sender in enumerate(cluster.senders):
        if rng.random() < 0.5:
            idle |= 1 << m
        else:
            sender.ends = (now + rng.uniform(0.01, 2.0, sender.slots)).tolist()
    claims = {m: float(rng.uniform(0, 1)) for m in range(problem.nodes) if rng.random() < 0.3}
    load = rng.random(problem.nodes + 1).tolist()
    fast: list[bool] = []
    full: list[bool] = []
    for node in range(problem.nodes):
        able, busy = idle & cluster.reach[node], cluster.reach[node] & ~idle
        senders = BusySenders(cluster, node, now, busy, claims)
        for mask in (able & int(rng.integers(1, 1 << problem.nodes)), able):
            for column in range(problem.experts):
                fast.append(senders.worth_waiting_for(column, mask))
                chosen = choose_source(cluster, node, column, now, mask, busy, load, claims)
                full.append(isinstance(chosen, Wait))
    return fast, full


def test_what_is_known_of_busy_senders_tells_the_same_waits() -> None:
    """The quick test for a wait agrees with the choice among all holders, for any sizes, rates and claims."""
    seen: set[bool] = set()
    for seed in range(30):
        fast, full = _waits(seed)
        assert fast == full
        seen |= set(full)
    assert seen == {False, True}
