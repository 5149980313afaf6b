"""A bounded, unbiased sample of weighted routes, per block.

Priority sampling (Duffield, Lund, Thorup: Priority sampling for estimation of arbitrary subset sums, JACM
54(6), 2007): an item of weight w gets the priority w / u, u uniform in (0, 1]; the m highest priorities of
a block stay, and the (m + 1)-th is the block's threshold t. max(w, t) is then an unbiased estimate of the
weight of each kept item, the sum over any subset of them included. A sample that never overflowed has t = 0
and is exact.

u is a hash of the item's identity, so samples do not depend on the order in which items came, nor on how
often folding was begun anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.telemetry.packed import NO_EXPERT
from solvers.compiled import compiled

ROUTES_PER_BLOCK = 512
"""Routes kept of one block in one time bucket of one node."""

ROUTES_PER_BUCKET = 16_384
"""Routes kept in one time bucket of one node, over all blocks of a model."""

ROUTES_PER_CLUSTER = 1 << 24
"""Routes kept of all nodes, models and time buckets together, about: 12 to 16 bytes each."""

_MIN_ROUTES_PER_BLOCK = 32
_HIGHEST = float(np.finfo(np.float32).max)


def capacity_per_block(blocks: int, blocks_of_all: int = 0) -> int:
    """How many routes a bucket of a model with that many blocks keeps of each.

    blocks_of_all: blocks over all nodes, models and time buckets of the cluster. Its samples share the room,
    and many small samples say as much as few large ones.
    """
    share = min(ROUTES_PER_BUCKET // max(1, blocks), ROUTES_PER_CLUSTER // max(1, blocks_of_all))
    return min(ROUTES_PER_BLOCK, max(_MIN_ROUTES_PER_BLOCK, share))


@dataclass(frozen=True, eq=False)
class Reservoir:
    """n kept routes of B blocks; where `ordered`, by block and then by falling priority.

    block int32[n]; experts uint16[n, K], `NO_EXPERT` pads; weight, priority float32[n]; threshold float32[B].
    Priorities are rounded when they are drawn, so that they are the same in memory and where they are stored.
    """

    block: npt.NDArray[np.int32]
    experts: npt.NDArray[np.uint16]
    weight: npt.NDArray[np.float32]
    priority: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    ordered: bool = False

    @classmethod
    def empty(cls, blocks: int) -> "Reservoir":
        return cls(
            np.zeros(0, np.int32),
            np.zeros((0, 1), np.uint16),
            np.zeros(0, np.float32),
            np.zeros(0, np.float32),
            np.zeros(blocks, np.float32),
            ordered=True,
        )

    @classmethod
    def of(
        cls,
        blocks: int,
        block: npt.NDArray[np.int32],
        experts: npt.NDArray[np.uint16],
        weight: npt.NDArray[np.floating],
        uniform: npt.NDArray[np.float64],
    ) -> "Reservoir":
        """Unsampled items (a reservoir of unbounded capacity); items without weight are left out."""
        weight = weight.astype(np.float32, copy=False)
        some = weight > 0
        if not some.all():
            block, experts, weight, uniform = block[some], experts[some], weight[some], uniform[some]
        # A weight near the largest number over a small u has no binary32: it stays, as the highest there is.
        priority = np.minimum(weight / uniform, _HIGHEST).astype(np.float32)
        return cls(block, experts, weight, priority, np.zeros(blocks, np.float32))

    def __len__(self) -> int:
        return len(self.block)

    @property
    def nbytes(self) -> int:
        """Of its arrays, about."""
        return self.block.nbytes + self.experts.nbytes + self.weight.nbytes + self.priority.nbytes

    def estimates(self) -> npt.NDArray[np.float64]:
        """float64[n]: unbiased estimate of each kept route's weight."""
        return np.maximum(self.weight, self.threshold[self.block]).astype(np.float64)


def joined(parts: Sequence[Reservoir]) -> Reservoir:
    """All that the parts kept, in no order: to be merged with others, or alone, before it is used."""
    width = max(part.experts.shape[1] for part in parts)
    return Reservoir(
        np.concatenate([part.block for part in parts]),
        np.concatenate([widened(part.experts, width) for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.priority for part in parts]),
        np.max([part.threshold for part in parts], axis=0),
    )


def merge(parts: Sequence[Reservoir], capacity: int) -> Reservoir:
    """The sample of all items of all parts together, `capacity` per block. Commutative and associative.

    The (m+1)-th highest priority of all items is the highest of the parts' thresholds and of the kept items
    beyond the m-th: whatever a part dropped lies at or below its threshold. O(n log n).
    """
    every = parts[0] if len(parts) == 1 else joined(parts)
    threshold = every.threshold.copy()
    order = np.flatnonzero(every.priority > threshold[every.block])
    # Priorities are positive, so their bits are in their order: one key sorts by block and falling priority.
    falling = np.uint64(0xFFFF_FFFF) - every.priority[order].view(np.uint32)
    order = order[np.argsort(every.block[order].astype(np.uint64) << np.uint64(32) | falling)]
    block, priority = every.block[order], every.priority[order]
    first = np.searchsorted(block, np.arange(len(threshold)))
    beyond = np.arange(len(block)) - first[block] == capacity
    threshold[block[beyond]] = np.maximum(threshold[block[beyond]], priority[beyond])
    kept = priority > threshold[block]
    order = order[kept]
    return Reservoir(block[kept], every.experts[order], every.weight[order], priority[kept], threshold, True)


def widened(experts: npt.NDArray[np.uint16], width: int) -> npt.NDArray[np.uint16]:
    """With columns of `NO_EXPERT` up to `width`."""
    if experts.shape[1] == width:
        return experts
    wide = np.full((len(experts), width), NO_EXPERT, np.uint16)
    wide[:, : experts.shape[1]] = experts
    return wide


def thinned(
    block: npt.NDArray[np.integer], weight: npt.NDArray[np.float64], capacity: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """At most `capacity` routes of each block, by priority sampling: which, in order, and what each then
    weighs. Deterministic."""
    sizes = np.bincount(block)
    if not len(block) or int(sizes.max()) <= capacity:
        return np.arange(len(block)), weight
    first = np.concatenate(([0], np.cumsum(sizes)))
    order = np.argsort(block, kind="stable")  # in order already: one look at each
    kept, estimate = np.zeros(len(block), np.bool_), weight.copy()
    _thin(first, order, weight / uniforms(len(block), len(block)), capacity, kept, estimate)
    rows = np.flatnonzero(kept)
    return rows, estimate[rows]


@compiled
def _thin(
    first: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    priority: npt.NDArray[np.float64],
    capacity: int,
    kept: npt.NDArray[np.bool_],
    estimate: npt.NDArray[np.float64],
) -> None:
    """Writes kept and estimate."""
    for b in range(len(first) - 1):
        rows = order[first[b] : first[b + 1]]
        if len(rows) <= capacity:
            kept[rows] = True
            continue
        falling = np.argsort(-priority[rows], kind="mergesort")
        threshold = priority[rows[falling[capacity]]]
        for rank in range(capacity):
            row = rows[falling[rank]]
            kept[row] = True
            estimate[row] = max(estimate[row], threshold)


def warm() -> None:
    """Compiles the kernel, or loads it from numba's cache."""
    thinned(np.zeros(2, np.int32), np.ones(2), 1)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """float64[count] in (0, 1]: item i of the stream entry `seed` (splitmix64 of both)."""
    return ((hashes(seed, count) >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


def hashes(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """uint64[count]: of which `uniforms` are made."""
    with np.errstate(over="ignore"):
        base = _mixed(np.asarray([seed & 0xFFFF_FFFF_FFFF_FFFF], np.uint64))
        return _mixed(base + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


def _mixed(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
