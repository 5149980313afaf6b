"""What a node holds, and the room it has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def is_id(text: str) -> bool:
    """Whether it can name a node, a device or a model: as the API has it, and safe in a path."""
    return _ID.fullmatch(text) is not None


class ExpertKey(NamedTuple):
    """Names one expert; sorts by model, then layer, then number."""

    model_id: str
    layer: int
    expert: int

    def __str__(self) -> str:
        return f"{self.model_id}/{self.layer}/{self.expert}"


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a held expert lies."""

    device_id: str
    bytes: int


class NoRoom(Exception):
    """The expert fits on none of the devices it may go to."""


class Holdings:
    """The experts of one node by device. Room is taken when a copy begins and given back when it fails, so
    two copies can never be promised the same bytes; only what is complete counts as held.
    """

    def __init__(self, devices: Mapping[str, int]) -> None:
        """`devices`: bytes that experts may use, by device id."""
        if not devices:
            raise ValueError("devices: is empty, expected at least one")
        self._capacity = dict(devices)
        self._taken = dict.fromkeys(devices, 0)
        self._held: dict[ExpertKey, Placed] = {}
        self._arriving: dict[ExpertKey, Placed] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def keys(self) -> frozenset[ExpertKey]:
        return frozenset(self._held)

    @property
    def used_bytes(self) -> int:
        """Bytes of held and of arriving experts."""
        return sum(self._taken.values())

    @property
    def capacity_bytes(self) -> int:
        return sum(self._capacity.values())

    def reserve(self, key: ExpertKey, size: int, device_id: str | None) -> Placed:
        """Take room for `key`: on `device_id`, or where most is free when the order names none.

        Raises `NoRoom` in words that name the device and the bytes.
        """
        if key in self._held or key in self._arriving:
            raise ValueError(f"{key}: is held or arriving already")
        if device_id is not None and device_id not in self._capacity:
            raise NoRoom(f"{key}: this node has no device {device_id}")
        chosen = device_id or max(self._capacity, key=lambda d: (self._capacity[d] - self._taken[d], d))
        free = self._capacity[chosen] - self._taken[chosen]
        if size > free:
            raise NoRoom(f"{key}: needs {size} bytes on device {chosen}, which has {free} free")
        placed = Placed(chosen, size)
        self._taken[chosen] += size
        self._arriving[key] = placed
        return placed

    def complete(self, key: ExpertKey) -> None:
        """The copy whose room was reserved is whole and loaded."""
        self._held[key] = self._arriving.pop(key)

    def abandon(self, key: ExpertKey) -> None:
        """The copy failed: its room is free again."""
        placed = self._arriving.pop(key)
        self._taken[placed.device_id] -= placed.bytes

    def remove(self, key: ExpertKey) -> Placed:
        """Evicted; where it lay."""
        placed = self._held.pop(key)
        self._taken[placed.device_id] -= placed.bytes
        return placed

    def digest(self) -> str:
        """SHA-256 over the sorted lines `model_id/layer/expert`, joined by newlines."""
        return holds_digest(self._held)


def holds_digest(keys: Iterable[ExpertKey]) -> str:
    """SHA-256, in hex, over the lines `model_id/layer/expert` in the order of their text."""
    return hashlib.sha256("\n".join(sorted(map(str, keys))).encode()).hexdigest()


def grouped(keys: Iterable[ExpertKey]) -> list[dict[str, Any]]:
    """`keys` as the API writes held experts: one entry a layer, numbers ascending."""
    layers: dict[tuple[str, int], list[int]] = {}
    for key in sorted(keys):
        layers.setdefault((key.model_id, key.layer), []).append(key.expert)
    return [
        {"model_id": model_id, "layer": layer, "experts": experts}
        for (model_id, layer), experts in layers.items()
    ]
