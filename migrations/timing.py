"""How fast a copy runs: the one statement of the timing model's rates."""

from __future__ import annotations

from typing import Final

import numpy as np

from migrations.model import Limits
from solvers.problem import Float64, PlacementProblem

DEFAULT_BYTES_PER_SECOND: Final = 125e6
"""1 Gbit/s: the bandwidth of every link the problem says nothing about, so that each plan has times."""


def copy_rates(problem: PlacementProblem, limits: Limits) -> Float64:
    """float64[N + 1, N] bytes per second of one copy from node m (row; the origin is row N) into node n.

    min(egress of m / max_sends, ingress of n / max_receives); the origin gives each of its
    origin_max_sends copies an equal share of its egress. Zero where n cannot reach m (an infinite
    latency_seconds[n, m] or origin_latency_seconds[n]) and for m = n. A bandwidth the problem leaves out
    is DEFAULT_BYTES_PER_SECOND. O(N^2).
    """
    nodes = problem.nodes
    default = np.full(nodes, DEFAULT_BYTES_PER_SECOND)
    ingress = problem.ingress_bytes_per_second
    egress = problem.egress_bytes_per_second
    origin = problem.origin_egress_bytes_per_second
    outgoing = np.empty(nodes + 1)
    outgoing[:nodes] = (default if egress is None else egress) / limits.max_sends
    outgoing[nodes] = (DEFAULT_BYTES_PER_SECOND if origin is None else origin) / limits.origin_max_sends
    incoming = (default if ingress is None else ingress) / limits.max_receives
    rates = np.minimum(outgoing[:, None], incoming[None, :])
    rates[:nodes][~np.isfinite(problem.latency_seconds.T)] = 0.0
    rates[nodes, ~np.isfinite(problem.origin_latency_seconds)] = 0.0
    rates[np.arange(nodes), np.arange(nodes)] = 0.0
    return rates
