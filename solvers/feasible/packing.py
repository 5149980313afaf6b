"""The one packing rule: which device of a node holds which of its experts."""

from __future__ import annotations

import numpy as np
from scipy import optimize, sparse

from solvers.kernels import packing as kernel
from solvers.problem import Int32, Int64, PlacementProblem, UInt8


def pack(problem: PlacementProblem, node: int, columns: Int64) -> Int32 | None:
    """int32[len(columns)]: index into the problem's devices of each expert held by `node`; None where they
    don't fit.

    Largest expert first, onto the device with the largest free memory; where that rule fails, onto the
    device it leaves least free; where that fails too, an exact integer programme over the number of experts
    of each size on each device. So None means that no packing exists. Deterministic. O(I log I + I D), the
    programme aside, which is needed only for several devices and several sizes.
    """
    device_node, device_capacity = problem.devices
    devices = np.flatnonzero(device_node == node)
    capacity = device_capacity[devices]
    sizes = problem.column_bytes[columns]
    if sizes.sum() > capacity.sum():
        return None
    order = np.argsort(-sizes, kind="stable")
    out = np.zeros(len(sizes), np.int32)
    free = np.empty(len(devices), np.int64)
    for roomiest in (True, False):
        if kernel.pack(sizes, order, capacity, roomiest, free, out):
            return devices[out].astype(np.int32)
    kinds = np.unique(sizes)
    if len(devices) <= 1 or len(kinds) <= 1:
        return None
    exact = _pack_exactly(sizes, kinds, capacity)
    return None if exact is None else devices[exact].astype(np.int32)


def fits(problem: PlacementProblem, holds: UInt8) -> bool:
    """True when the experts of every node can be packed on its devices."""
    return all(
        pack(problem, node, np.flatnonzero(holds[node]).astype(np.int64)) is not None
        for node in range(problem.nodes)
    )


def packable_bytes(problem: PlacementProblem) -> Int64:
    """int64[N]: bytes of experts a node can hold at most: where all experts have one size, whole experts per
    device; else its capacity. 0 for a drained node. A set within it packs, except with several devices and
    several sizes."""
    device_node, device_capacity = problem.devices
    used = problem.expert_bytes[problem.experts_per_block > 0]
    capacity = device_capacity
    if len(used) and (used == used[0]).all():
        capacity = device_capacity // used[0] * used[0]
    total = np.zeros(problem.nodes, np.int64)
    np.add.at(total, device_node, capacity)
    if problem.drained is not None:
        total[problem.drained == 1] = 0
    return total


def packs_within_bytes(problem: PlacementProblem) -> bool:
    """True when every set within `packable_bytes` packs: one size of expert, or one device per node."""
    used = problem.expert_bytes[problem.experts_per_block > 0]
    one_size = len(used) == 0 or bool((used == used[0]).all())
    return one_size or len(np.unique(problem.devices[0])) == len(problem.devices[0])


def _pack_exactly(sizes: Int64, kinds: Int64, capacity: Int64) -> Int64 | None:
    devices = len(capacity)
    counts = np.array([(sizes == kind).sum() for kind in kinds])
    # variables y[kind, device]; every item somewhere, no device above its memory (in units of it, for
    # scaling)
    somewhere = sparse.kron(sparse.eye_array(len(kinds)), np.ones((1, devices)))
    unit = int(np.gcd.reduce(kinds))
    memory = sparse.kron((kinds // unit)[None, :].astype(float), sparse.eye_array(devices))
    answer = optimize.milp(
        np.zeros(len(kinds) * devices),
        integrality=np.ones(len(kinds) * devices, np.int64),
        bounds=optimize.Bounds(0, np.repeat(counts, devices)),
        constraints=[
            optimize.LinearConstraint(sparse.csr_array(somewhere), counts, counts),
            optimize.LinearConstraint(sparse.csr_array(memory), -np.inf, (capacity // unit).astype(float)),
        ],
    )
    if answer.x is None:
        return None
    amount = np.rint(answer.x).astype(np.int64).reshape(len(kinds), devices)
    if (amount.sum(axis=1) != counts).any() or (kinds @ amount > capacity).any():
        return None
    out = np.empty(len(sizes), np.int64)
    for kind, row in zip(kinds, amount, strict=True):
        out[sizes == kind] = np.repeat(np.arange(devices), row)
    return out
