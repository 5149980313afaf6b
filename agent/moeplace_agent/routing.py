"""Where a node's tokens find their experts: the assignment in use, ready to be asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moeplace_agent.holdings import ExpertKey, Holdings
from moeplace_agent.messages import Assignment, RouteTarget, TargetKind


class Local(NamedTuple):
    """The expert is served by the node itself."""


LOCAL = Local()


class RoutingTable:
    """An immutable view of one assignment.

    An expert that the assignment routes elsewhere is called elsewhere even while it is still held: that is
    how a copy is withdrawn before it is dropped. One without a route is local if held; else the origin
    serves it, where there is one.
    """

    def __init__(self, assignment: Assignment) -> None:
        """Raises ValueError where a route names a target that is not there."""
        self.assignment = assignment
        self.version = assignment.metadata.version
        self.generation = assignment.metadata.generation
        self.cluster_uid = assignment.metadata.uid
        self._targets = assignment.targets
        self._routes: dict[ExpertKey, tuple[int, ...]] = {}
        for layer in assignment.routes:
            if len(layer.experts) != len(layer.targets):
                raise ValueError(
                    f"routes of {layer.model_id}/{layer.layer}: {len(layer.targets)} lists of targets "
                    f"for {len(layer.experts)} experts"
                )
            for expert, indices in zip(layer.experts, layer.targets, strict=True):
                key = ExpertKey(layer.model_id, layer.layer, expert)
                if any(not 0 <= index < len(self._targets) for index in indices):
                    raise ValueError(f"route of {key}: names a target outside 0..{len(self._targets) - 1}")
                self._routes[key] = tuple(indices)
        self._origin = next((t for t in self._targets if t.kind is TargetKind.ORIGIN), None)

    def where(
        self, holdings: Holdings, model_id: str, layer: int, expert: int
    ) -> tuple[Local | RouteTarget, ...]:
        """The places to call for one expert, best first; empty where nobody serves it."""
        key = ExpertKey(model_id, layer, expert)
        routed = self._routes.get(key)
        if routed:
            return tuple(self._targets[index] for index in routed)
        if key in holdings:
            return (LOCAL,)
        return () if self._origin is None else (self._origin,)

    def of_model(self, holdings: Holdings, model_id: str) -> ModelRoutes:
        """The same for one model, asked by layer and expert."""
        return ModelRoutes(self, holdings, model_id)

    def served_elsewhere(self, key: ExpertKey) -> bool:
        """True when this table sends calls for `key` to another place, so that it may be evicted here."""
        return bool(self._routes.get(key))

    def calls_of_layer(
        self, holdings: Holdings, model_id: str, layer: int, experts: int, local_seconds: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """For each expert of the layer: seconds of a call to its best place (inf where nobody serves it), and
        whether that place is the node itself. O(experts)."""
        seconds = np.full(experts, np.inf)
        local = np.zeros(experts, np.bool_)
        for expert in range(experts):
            places = self.where(holdings, model_id, layer, expert)
            if not places:
                continue
            best = places[0]
            if isinstance(best, Local):
                local[expert] = True
                seconds[expert] = local_seconds
            else:
                seconds[expert] = best.latency_seconds
        return seconds, local


class ModelRoutes:
    """Where the experts of one model are, under one table: what an engine asks while it runs the model."""

    def __init__(self, table: RoutingTable, holdings: Holdings, model_id: str) -> None:
        self._table = table
        self._holdings = holdings
        self._model_id = model_id

    def where(self, layer: int, expert: int) -> tuple[Local | RouteTarget, ...]:
        """The places to call for one expert, best first; empty where nobody serves it."""
        return self._table.where(self._holdings, self._model_id, layer, expert)

    def by_place(self, layer: int, experts: Iterable[int]) -> dict[Local | RouteTarget | None, list[int]]:
        """The different `experts` that some tokens activate, ascending, by the best place of each: what to
        compute here, and what to send where in one call. None: nobody serves them. Negative ids are none."""
        places: dict[Local | RouteTarget | None, list[int]] = {}
        for expert in sorted({int(expert) for expert in experts if expert >= 0}):
            best = self.where(layer, expert)
            places.setdefault(best[0] if best else None, []).append(expert)
        return places
