from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from migrations.kernels.spreading import shortest_paths, spread
from solvers.problem import Float64

_NODES = 3


def _reached(links: list[tuple[int, int]], holders: set[int]) -> set[int]:
    reached = set(holders)
    while more := {n for m, n in links if m in reached} - reached:
        reached |= more
    return reached


def _cheapest(cost: Float64, holders: set[int], goals: set[int]) -> float:
    """The least cost of any set of links along which the goals are reached, by trying every set."""
    links = [(m, n) for m in range(_NODES + 1) for n in range(_NODES) if np.isfinite(cost[m, n])]
    best = np.inf
    for chosen in range(1 << len(links)):
        some = [link for i, link in enumerate(links) if chosen >> i & 1]
        if goals <= _reached(some, holders):
            best = min(best, sum(float(cost[link]) for link in some))
    return best


@settings(max_examples=50)
@given(
    prices=st.lists(
        st.sampled_from([0.0, 1.0, 2.0, 5.0, 9.0, np.inf]), min_size=_NODES**2 + 3, max_size=_NODES**2 + 3
    ),
    holders=st.sets(st.integers(0, _NODES), min_size=1),
    goals=st.sets(st.integers(0, _NODES - 1), min_size=1),
)
def test_an_expert_spreads_as_cheaply_as_along_any_set_of_links(
    prices: list[float], holders: set[int], goals: set[int]
) -> None:
    """The cost is the least over all sets of links that lead to every goal, the flow takes such links, and
    they cost that much."""
    cost = np.array(prices).reshape(_NODES + 1, _NODES)
    cost[np.arange(_NODES), np.arange(_NODES)] = np.inf
    path, toward = shortest_paths(cost)
    flow = np.zeros_like(cost)
    holds = np.array([m in holders for m in range(_NODES + 1)], np.uint8)
    found = spread(path, toward, holds, np.array(sorted(goals)), 2.0, flow)
    assert found == _cheapest(cost, holders, goals)
    if np.isfinite(found):
        links = [(int(m), int(n)) for m, n in np.argwhere(flow > 0)]
        assert goals <= _reached(links, holders)
        assert flow.sum() == 0 or (flow[flow > 0] * cost[flow > 0]).sum() == 2.0 * found
    else:
        assert not flow.any()
