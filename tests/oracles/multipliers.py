"""The multipliers of the dual from their definition, one route, level and expert at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from solvers.problem import PlacementProblem
from solvers.traffic import Traffic

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass
class Earnings:
    """The multipliers' own part of the bound, and what replicas earn, float64[E, N]."""

    constant: float
    earned: Float64

    def charge(self, pay: float, column: int, servers: list[int]) -> None:
        """`pay` per second at a level, which a replica of the column at any of the servers takes away."""
        self.constant += pay
        self.earned[column, servers] += pay


def routes(problem: PlacementProblem, traffic: Traffic) -> Iterator[tuple[int, int, int, float, list[int]]]:
    """Index, block, node, rate and columns of every route."""
    for b in range(problem.blocks):
        for r in range(int(traffic.start[b]), int(traffic.start[b + 1])):
            columns = [int(problem.block_offset[b]) + int(e) for e in traffic.experts[r] if e >= 0]
            yield r, b, int(traffic.node[r]), float(traffic.rate[r]), columns


def power(value: float) -> float:
    """e to a value <= 0, but what is below -600 counts as that."""
    return math.exp(max(-600.0, value))


def softmax(powers: list[float], rest: float = 0.0) -> list[float]:
    """The share of each in the sum of all; `rest`: of what is left out."""
    return [part / (sum(powers) + rest) for part in powers]


def lacks(held: list[float]) -> list[float]:
    """1 less what the servers hold, up to each of them."""
    out, left = [], 1.0
    for part in held:
        left -= part
        out.append(left)
    return out


def farther(reach: float, pace: float, gaps: list[float], left: list[float]) -> float:
    """Where a call pays up to, after a step that goes by the lack of the level it pays at: the first latency
    at which the way there is longer than that level's lack times the pace."""
    edges = [0.0]
    for gap in gaps:
        edges.append(edges[-1] + gap)
    return max([0.0, *(min(edge, reach + pace * part) for edge, part in zip(edges[1:], left, strict=True))])


def charge_up_to(found: Earnings, pay: float, reach: float, gaps: list[float]) -> list[float]:
    """Adds pay * alpha * gap of every level to the constant, alpha being the part of the level that is within
    reach; returns what each of them is paid."""
    parts, begin = [], 0.0
    for gap in gaps:
        parts.append(pay * min(gap, max(0.0, reach - begin)))
        begin += gap
    found.constant += sum(parts)
    return parts


class SlowestTwin:
    """`solvers.dual.slowest.SlowestCalls`."""

    def __init__(self, problem: PlacementProblem, traffic: Traffic, order: Int64, gap: Float64) -> None:
        self._problem, self._traffic = problem, traffic
        self._order, self._gap = order.tolist(), gap.tolist()
        self.potential = np.zeros((problem.nodes, problem.experts, problem.nodes))

    def step(self, held: Float64, length: float) -> Earnings:
        """Potentials raised by the lack of their levels, then what they come to."""
        for n in range(self._problem.nodes):
            for e in range(self._problem.experts):
                left = np.array(lacks(held[e, self._order[n]].tolist()))
                self.potential[n, e] = np.maximum(-30.0, self.potential[n, e] + length * left)
        return self.earnings(held)

    def earnings(self, held: Float64) -> Earnings:
        """theta is a softmax of the route's potentials and 0, so >= 0 with a sum of at most 1."""
        offset = self._problem.block_offset.tolist()
        found = Earnings(0.0, np.zeros(held.shape))
        for _, b, n, rate, columns in routes(self._problem, self._traffic):
            for i, gap in enumerate(self._gap[n]):
                if gap <= 0.0:
                    continue
                block = self.potential[n, offset[b] : offset[b + 1], i]
                highest = max(0.0, float(block.max()))
                powers = [power(float(self.potential[n, e, i]) - highest) for e in columns]
                theta = softmax(powers, power(-highest))
                assert min(theta) >= 0.0
                assert sum(theta) <= 1.0 + 1e-12
                for e, part in zip(columns, theta, strict=True):
                    found.charge(rate * gap * part, e, self._order[n][: i + 1])
        return found


class SingleTwin:
    """`solvers.dual.single.SingleCalls`."""

    def __init__(self, activity: Float64, order: Int64, gap: Float64) -> None:
        self._activity, self._order, self._gap = activity, order.tolist(), gap.tolist()
        self.reach = 0.5 * np.repeat(gap.sum(axis=1)[:, None], activity.shape[1], axis=1)

    def step(self, held: Float64, length: float) -> Earnings:
        """How far calls pay moves by the lack, a quarter of the whole way for a length of 1."""
        found = Earnings(0.0, np.zeros(held.shape))
        nodes, experts = self._activity.shape
        for n in range(nodes):
            for e in range(experts):
                left = lacks(held[e, self._order[n]].tolist())
                pace = 0.25 * length * sum(self._gap[n])
                self.reach[n, e] = farther(float(self.reach[n, e]), pace, self._gap[n], left)
                rate, reach = float(self._activity[n, e]), float(self.reach[n, e])
                for i, part in enumerate(charge_up_to(found, rate, reach, self._gap[n])):
                    found.earned[e, self._order[n][: i + 1]] += part
        return found


class HostingTwin:
    """`solvers.dual.hosted.Hosting`."""

    def __init__(self, problem: PlacementProblem, traffic: Traffic, order: Int64, gap: Float64) -> None:
        self._problem, self._traffic = problem, traffic
        self._order, self._gap = order.tolist(), gap.tolist()
        self.potential = np.zeros((problem.experts, problem.nodes))
        self.reach = 0.2 * gap.sum(axis=1)[traffic.node]

    def step(self, held: Float64, length: float) -> Earnings:
        """Potentials of the hosts lowered by what is held, then how far routes pay moved by the lack."""
        self.potential = self.potential - length * held
        return self.earnings(held, length)

    def earnings(self, held: Float64, length: float = 0.0) -> Earnings:
        """theta is a softmax over the experts of a route at a server."""
        offset = self._problem.block_offset.tolist()
        found = Earnings(0.0, np.zeros(held.shape))
        for r, b, n, rate, columns in routes(self._problem, self._traffic):
            highest = self.potential[offset[b] : offset[b + 1]].max(axis=0).tolist()
            theta = [
                softmax([power(float(self.potential[e, m]) - highest[m]) for e in columns])
                for m in range(held.shape[1])
            ]
            assert all(min(part) >= 0.0 and abs(sum(part) - 1.0) <= 1e-12 for part in theta)
            hosts = [
                sum(part * float(held[e, m]) for e, part in zip(columns, theta[m], strict=True))
                for m in self._order[n]
            ]
            pace = 0.1 * length * sum(self._gap[n])
            self.reach[r] = farther(float(self.reach[r]), pace, self._gap[n], lacks(hosts))
            for i, pay in enumerate(charge_up_to(found, rate, float(self.reach[r]), self._gap[n])):
                for m in self._order[n][: i + 1]:
                    for e, part in zip(columns, theta[m], strict=True):
                        found.earned[e, m] += pay * part
        return found
