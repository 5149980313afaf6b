"""A placement: which node holds which expert."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from solvers.problem import Int64, PlacementProblem, ProblemError, UInt8


@dataclass(frozen=True, eq=False)
class Placement:
    """holds uint8[N, E], read-only: holds[n, e] = 1 when node n holds the expert of column e.

    Raises `ProblemError` where an entry is neither 0 nor 1 or `holds` has not two dimensions.
    """

    holds: UInt8

    def __post_init__(self) -> None:
        given = np.asarray(self.holds)
        if given.ndim != 2:
            raise ProblemError(f"holds: has {given.ndim} dimensions, expected 2")
        if given.size and given.dtype.kind not in "biu":
            raise ProblemError(f"holds: has type {given.dtype}, expected 0 or 1")
        good = (given == 0) | (given == 1)
        if not good.all():
            n, e = np.unravel_index(int(np.argmin(good)), good.shape)
            raise ProblemError(f"holds[{n},{e}]: is {given[n, e]}, expected 0 or 1")
        holds = np.array(given, dtype=np.uint8, order="C")
        holds.flags.writeable = False
        object.__setattr__(self, "holds", holds)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Pickles forget which arrays are read-only."""
        state["holds"].flags.writeable = False
        self.__dict__.update(state)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, over the shape (two little-endian uint64) and the bytes of `holds`."""
        digest = hashlib.sha256(np.array(self.holds.shape, dtype="<u8").tobytes())
        digest.update(self.holds.tobytes())
        return digest.hexdigest()

    def used_bytes(self, problem: PlacementProblem) -> Int64:
        """int64[N]: bytes of the experts each node holds. O(N E)."""
        used: Int64 = self.holds.astype(np.int64) @ problem.column_bytes
        return used
