"""The memory of one node, accounted so that every byte a copy takes names the drop that freed it."""

from __future__ import annotations

from collections import deque

import numpy as np

from solvers.feasible.packing import pack
from solvers.problem import PlacementProblem


class Room:
    """Free bytes on each device of a node, as pools: one free from the start, one per drop.

    A copy takes bytes from pools and depends on the drops that filled them. No byte is given twice, so memory
    is never exceeded in whatever order the dependencies allow the moves to run, not only in that of the
    planner.
    """

    def __init__(self, problem: PlacementProblem, node: int, columns: list[int]) -> None:
        self._problem = problem
        self._node = node
        device_node, device_capacity = problem.devices
        self.devices: list[int] = np.flatnonzero(device_node == node).tolist()
        self._capacity = {d: int(device_capacity[d]) for d in self.devices}
        if not self.devices:  # a node without a device: one that holds nothing
            self.devices, self._capacity = [-1], {-1: 0}
        self.place: dict[int, int] = {}
        self._drops: list[int] = []
        # Every copy onto the device depends on these: drops that paid back an overfull start, or came before
        # the experts were laid out anew.
        self._always: dict[int, list[int]] = {d: [] for d in self.devices}
        self.free: dict[int, int] = dict(self._capacity)
        self._pools: dict[int, deque[tuple[int, int | None]]] = {d: deque() for d in self.devices}
        if not self.lay_out(columns):
            self._overfill(columns)

    @property
    def several_devices(self) -> bool:
        return len(self.devices) > 1

    def can_hold(self, columns: list[int]) -> bool:
        """These experts can be packed on the node's devices."""
        return pack(self._problem, self._node, np.array(columns, dtype=np.int64)) is not None

    def lay_out(self, columns: list[int], extra: int | None = None) -> bool:
        """Place these experts, all the node holds or receives, anew, so that `extra` fits as well.

        False, with nothing changed, where they cannot be packed. Copies that come later depend on all
        drops so far: any set the node may hold from then on is part of one layout.
        """
        everything = columns if extra is None else [*columns, extra]
        layout = pack(self._problem, self._node, np.array(everything, dtype=np.int64))
        if layout is None:
            return False
        self.free = dict(self._capacity)
        self.place = dict(zip(everything, layout.tolist(), strict=True))
        if extra is not None:
            del self.place[extra]
        size = self._problem.column_bytes
        for column, device in self.place.items():
            self.free[device] -= int(size[column])
        for device in self.devices:
            self._pools[device] = deque([(self.free[device], None)])
            self._always[device] = list(self._drops)
        return True

    def _overfill(self, columns: list[int]) -> None:
        """The placement in force may exceed a capacity that shrank: drops pay the debt before any copy."""
        size = self._problem.column_bytes
        for column in sorted(columns, key=lambda c: (-int(size[c]), c)):
            device = max(self.devices, key=lambda d: self.free[d])
            self.place[column] = device
            self.free[device] -= int(size[column])
        for device in self.devices:
            self._pools[device] = deque([(max(self.free[device], 0), None)])

    def device_for(self, size: int) -> int | None:
        """The device with the most free memory, where `size` bytes fit on it."""
        device = max(self.devices, key=lambda d: self.free[d])
        return device if self.free[device] >= size else None

    def drops_for(self, size: int, candidates: list[int]) -> list[int] | None:
        """The first candidates, in their order, whose drop lets `size` bytes fit on one device, or None.

        O(candidates * devices).
        """
        column_bytes = self._problem.column_bytes
        best: list[int] | None = None
        for device in self.devices:
            need = size - self.free[device]
            chosen: list[int] = []
            for column in candidates:
                if need <= 0:
                    break
                if self.place[column] == device:
                    chosen.append(column)
                    need -= int(column_bytes[column])
            if need > 0:
                continue
            for column in list(chosen):  # one that a later, larger one made needless stays
                if need + int(column_bytes[column]) <= 0:
                    chosen.remove(column)
                    need += int(column_bytes[column])
            if best is None or len(chosen) < len(best):
                best = chosen
        return best

    def take(self, column: int, size: int) -> list[int]:
        """Give `column` its bytes on the roomiest device; returns the drops they come from."""
        device = self.device_for(size)
        if device is None:
            raise RuntimeError(f"node {self._node} has no room for {size} bytes")
        self.place[column] = device
        self.free[device] -= size
        sources = list(self._always[device])
        pools = self._pools[device]
        while size:
            amount, drop = pools[0]
            taken = min(amount, size)
            size -= taken
            if drop is not None and taken:
                sources.append(drop)
            if taken == amount and size:
                pools.popleft()
            else:
                pools[0] = (amount - taken, drop)
        return sources

    def release(self, column: int, size: int, drop: int) -> None:
        """Return the bytes of `column`, freed by the move `drop`."""
        device = self.place.pop(column)
        self._drops.append(drop)
        before = self.free[device]
        self.free[device] += size
        if before < 0:
            self._always[device].append(drop)
            size = max(0, before + size)
        if size:
            self._pools[device].append((size, drop))
