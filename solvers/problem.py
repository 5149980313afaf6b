"""The placement problem: what is to be placed, where, and the traffic it serves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_BYTES_LIMIT = 2**62  # totals of bytes stay in int64 with room for one addition
_PAIRS_LIMIT = 2**28  # nodes times experts: a float of each is 2 GiB
_NUMBER_LIMIT = 1e60  # of rates, latencies, seconds: products and squares of their sums stay finite


class ProblemError(ValueError):
    """A problem, placement or file that breaks its contract; one line that names the key and the index."""


class Coupling(StrEnum):
    """How the experts of one route make the latency of the route."""

    SUM = "sum"
    SLOWEST = "slowest"
    COLOCATED = "colocated"


@dataclass(frozen=True, eq=False)
class PlacementProblem:
    """An immutable instance, validated once; change it only through `replace`.

    N nodes, B blocks, E experts over all blocks, R routes of at most Kmax experts, D devices.

    expert_bytes int64[B]             bytes of one expert of the block, >= 1
    experts_per_block int64[B]        experts of the block, >= 0
    capacity_bytes int64[N]           bytes the node may use for experts
    latency_seconds float64[N, N]     [n, m]: one expert call raised at n and served at m; inf = unreachable
    origin_latency_seconds float64[N] the same, served by the origin; inf = no origin for that node
    route_node int32[R]               node whose tokens raise the route
    route_block int32[R]              block of the route
    route_experts int32[R, Kmax]      ids within the block, -1 pads
    route_rate float64[R]             activations per second
    coupling                          see `Coupling`
    min_replicas                      nodes that must hold each expert; >= 1 unless every node has an origin
    current uint8[N, E]               placement in force
    ingress_bytes_per_second float64[N], egress_bytes_per_second float64[N], origin_egress_bytes_per_second
    horizon_seconds                   how long the rates are expected to hold
    pins int8[N, E]                   1 must hold, -1 must not hold, 0 free
    drained uint8[N]                  1: the node holds nothing
    device_node int32[D]              node of the device, and its memory; absent: one device per node
    device_capacity_bytes int64[D]

    The column of expert i of block b is block_offset[b] + i. Raises `ProblemError` with one line that
    names the key and the index. Validation costs O(N^2 + N E + R Kmax log Kmax).
    """

    expert_bytes: Int64
    experts_per_block: Int64
    capacity_bytes: Int64
    latency_seconds: Float64
    origin_latency_seconds: Float64
    route_node: Int32
    route_block: Int32
    route_experts: Int32
    route_rate: Float64
    coupling: Coupling = Coupling.SLOWEST
    min_replicas: int = 1
    current: UInt8 | None = None
    ingress_bytes_per_second: Float64 | None = None
    egress_bytes_per_second: Float64 | None = None
    origin_egress_bytes_per_second: float | None = None
    horizon_seconds: float | None = None
    pins: Int8 | None = None
    drained: UInt8 | None = None
    device_node: Int32 | None = None
    device_capacity_bytes: Int64 | None = None

    def __post_init__(self) -> None:
        for key, dtype in _ARRAYS.items():
            value = getattr(self, key)
            if value is None and key in _OPTIONAL:
                continue
            object.__setattr__(self, key, _array(key, value, np.dtype(dtype)))
        self._check_blocks()
        self._check_nodes()
        self._check_routes()
        self._check_scalars()
        self._check_state()
        self._check_devices()

    def replace(self, **changes: Any) -> Self:
        """A new, validated problem with the named fields changed; `ProblemError` on an unknown name."""
        known = {field.name for field in dataclasses.fields(self)}
        for key in changes:
            if key not in known:
                raise ProblemError(f"{key}: not a key of a problem")
        return dataclasses.replace(self, **changes)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Pickles forget which arrays are read-only."""
        for value in state.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        self.__dict__.update(state)

    @property
    def nodes(self) -> int:
        return int(self.capacity_bytes.shape[0])

    @property
    def blocks(self) -> int:
        return int(self.expert_bytes.shape[0])

    @property
    def routes(self) -> int:
        return int(self.route_rate.shape[0])

    @cached_property
    def experts(self) -> int:
        return int(self.experts_per_block.sum())

    @cached_property
    def block_offset(self) -> Int64:
        """int64[B + 1]: first column of each block."""
        offset = np.zeros(self.blocks + 1, np.int64)
        np.cumsum(self.experts_per_block, out=offset[1:])
        return _frozen(offset)

    @cached_property
    def column_block(self) -> Int32:
        """int32[E]: block of each column."""
        return _frozen(np.repeat(np.arange(self.blocks, dtype=np.int32), self.experts_per_block))

    @cached_property
    def column_bytes(self) -> Int64:
        """int64[E]: bytes of the expert of each column."""
        return _frozen(np.repeat(self.expert_bytes, self.experts_per_block))

    @cached_property
    def has_origin(self) -> bool:
        """True when every node can call the origin."""
        return bool(np.isfinite(self.origin_latency_seconds).all())

    @cached_property
    def devices(self) -> tuple[Int32, Int64]:
        """Node and capacity of every device; one device per node where the problem names none."""
        if self.device_node is None or self.device_capacity_bytes is None:
            return _frozen(np.arange(self.nodes, dtype=np.int32)), self.capacity_bytes
        return self.device_node, self.device_capacity_bytes

    def _check_blocks(self) -> None:
        _shape("experts_per_block", self.experts_per_block, (self.blocks,))
        _each("expert_bytes", self.expert_bytes, self.expert_bytes >= 1, "at least 1")
        _each("experts_per_block", self.experts_per_block, self.experts_per_block >= 0, "at least 0")
        sizes = zip(self.expert_bytes.tolist(), self.experts_per_block.tolist(), strict=True)
        if sum(max(size, 1) * max(count, 1) for size, count in sizes) >= _BYTES_LIMIT:
            raise ProblemError("expert_bytes: all experts together must be less than 2**62 bytes")
        counts = self.experts_per_block.tolist()
        if sum(counts) * max(1, len(self.capacity_bytes)) > _PAIRS_LIMIT:
            largest = counts.index(max(counts))
            raise ProblemError(
                f"experts_per_block[{largest}]: is {counts[largest]}, expected at most {_PAIRS_LIMIT} "
                f"experts times nodes in all, they are {sum(counts) * len(self.capacity_bytes)}"
            )

    def _check_nodes(self) -> None:
        nodes = self.nodes
        if nodes == 0:
            raise ProblemError("capacity_bytes: expected at least one node")
        _each("capacity_bytes", self.capacity_bytes, self.capacity_bytes >= 0, "at least 0")
        if sum(self.capacity_bytes.tolist()) >= _BYTES_LIMIT:
            raise ProblemError("capacity_bytes: all nodes together must be less than 2**62 bytes")
        latency = self.latency_seconds
        _shape("latency_seconds", latency, (nodes, nodes))
        _each("latency_seconds", latency, latency >= 0, "at least 0, not NaN")
        _each("latency_seconds", latency, _moderate(latency), _MODERATE_OR_INF)
        local = np.isfinite(np.diagonal(latency))
        if not local.all():
            n = int(np.argmin(local))
            raise ProblemError(f"latency_seconds[{n},{n}]: is {latency[n, n]}, expected a finite number")
        origin = self.origin_latency_seconds
        _shape("origin_latency_seconds", origin, (nodes,))
        _each("origin_latency_seconds", origin, origin >= 0, "at least 0, not NaN (inf = no origin)")
        _each("origin_latency_seconds", origin, _moderate(origin), _MODERATE_OR_INF)

    def _check_routes(self) -> None:
        routes = self.routes
        _shape("route_node", self.route_node, (routes,))
        _shape("route_block", self.route_block, (routes,))
        if self.route_experts.ndim != 2 or self.route_experts.shape[0] != routes:
            raise ProblemError(
                f"route_experts: has shape {self.route_experts.shape}, expected ({routes}, Kmax)"
            )
        node, block, rate = self.route_node, self.route_block, self.route_rate
        _each("route_node", node, (node >= 0) & (node < self.nodes), f"a node in 0..{self.nodes - 1}")
        _each("route_block", block, (block >= 0) & (block < self.blocks), f"a block in 0..{self.blocks - 1}")
        _each("route_rate", rate, (rate >= 0) & np.isfinite(rate), "a finite rate of at least 0")
        with np.errstate(over="ignore"):
            total = float(rate.sum())
        if total > _NUMBER_LIMIT:
            highest = int(np.argmax(rate))
            raise ProblemError(
                f"route_rate[{highest}]: is {rate[highest]}, expected rates of at most {_NUMBER_LIMIT:g} per "
                f"second in all, they are {total}"
            )
        experts = self.route_experts
        if not routes:
            return
        ordered = np.sort(experts, axis=1)
        if ordered.shape[1] and (
            ordered[:, 0].min() < -1 or (ordered[:, -1] >= self.experts_per_block[block]).any()
        ):
            limit = self.experts_per_block[block][:, None]
            inside = (experts >= -1) & (experts < limit)
            r, k = np.unravel_index(int(np.argmin(inside)), inside.shape)
            last = int(limit[r, 0]) - 1
            raise ProblemError(
                f"route_experts[{r},{k}]: is {experts[r, k]}, "
                f"expected an expert of block {block[r]} in 0..{last}, or -1"
            )
        empty = ordered[:, -1] < 0 if ordered.shape[1] else np.ones(routes, np.bool_)
        if empty.any():
            raise ProblemError(f"route_experts[{int(np.argmax(empty))}]: expected at least one expert")
        repeated = ordered[:, 1:] == ordered[:, :-1]
        if repeated.any():  # of pads, most likely
            repeated &= ordered[:, 1:] >= 0
        if repeated.any():
            r, k = np.unravel_index(int(np.argmax(repeated)), repeated.shape)
            raise ProblemError(
                f"route_experts[{r}]: expert {ordered[r, k]} twice, expected different experts"
            )

    def _check_scalars(self) -> None:
        try:
            object.__setattr__(self, "coupling", Coupling(self.coupling))
        except ValueError:
            names = ", ".join(Coupling)
            shown = f"{str(self.coupling)!r:.60}"
            raise ProblemError(f"coupling: is {shown}, expected one of {names}") from None
        replicas: Any = self.min_replicas
        if (
            isinstance(replicas, bool)
            or not isinstance(replicas, int | np.integer)
            or not 0 <= replicas < 2**31
        ):
            raise ProblemError(f"min_replicas: is {replicas!r:.60}, expected a whole number of at least 0")
        object.__setattr__(self, "min_replicas", int(replicas))
        if self.min_replicas == 0 and not self.has_origin:
            n = int(np.argmin(np.isfinite(self.origin_latency_seconds)))
            raise ProblemError(f"min_replicas: is 0, expected at least 1 since node {n} has no origin")
        for key in ("origin_egress_bytes_per_second", "horizon_seconds"):
            value: Any = getattr(self, key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                raise ProblemError(f"{key}: is {value!r:.60}, expected a number")
            if not 0 < value < np.inf:
                raise ProblemError(f"{key}: is {value}, expected a finite number above 0")
            if value < 1.0 / _NUMBER_LIMIT:
                raise ProblemError(f"{key}: is {value}, expected at least {1.0 / _NUMBER_LIMIT:g}")
            object.__setattr__(self, key, float(value))

    def _check_state(self) -> None:
        shape = (self.nodes, self.experts)
        if self.current is not None:
            _shape("current", self.current, shape)
            _each("current", self.current, self.current <= 1, "0 or 1")
        if self.pins is not None:
            _shape("pins", self.pins, shape)
            _each("pins", self.pins, (self.pins >= -1) & (self.pins <= 1), "-1, 0 or 1")
        if self.drained is not None:
            _shape("drained", self.drained, (self.nodes,))
            _each("drained", self.drained, self.drained <= 1, "0 or 1")
        for key in ("ingress_bytes_per_second", "egress_bytes_per_second"):
            value = getattr(self, key)
            if value is not None:
                _shape(key, value, (self.nodes,))
                _each(key, value, (value > 0) & np.isfinite(value), "a finite number above 0")
                least = 1.0 / _NUMBER_LIMIT
                _each(key, value, value >= least, f"at least {least:g}")

    def _check_devices(self) -> None:
        node, capacity = self.device_node, self.device_capacity_bytes
        if node is None and capacity is None:
            return
        if node is None or capacity is None:
            missing = "device_node" if node is None else "device_capacity_bytes"
            raise ProblemError(f"{missing}: absent, expected device_node and device_capacity_bytes together")
        _shape("device_capacity_bytes", capacity, node.shape)
        _each("device_node", node, (node >= 0) & (node < self.nodes), f"a node in 0..{self.nodes - 1}")
        _each("device_capacity_bytes", capacity, capacity >= 0, "at least 0")
        sums = [0] * self.nodes
        for n, size in zip(node.tolist(), capacity.tolist(), strict=True):
            sums[n] += size
        for n, (total, expected) in enumerate(zip(sums, self.capacity_bytes.tolist(), strict=True)):
            if total != expected:
                raise ProblemError(
                    f"capacity_bytes[{n}]: is {expected}, expected the sum of its devices, {total}"
                )


_ARRAYS: dict[str, type[np.generic]] = {
    "expert_bytes": np.int64,
    "experts_per_block": np.int64,
    "capacity_bytes": np.int64,
    "latency_seconds": np.float64,
    "origin_latency_seconds": np.float64,
    "route_node": np.int32,
    "route_block": np.int32,
    "route_experts": np.int32,
    "route_rate": np.float64,
    "current": np.uint8,
    "ingress_bytes_per_second": np.float64,
    "egress_bytes_per_second": np.float64,
    "pins": np.int8,
    "drained": np.uint8,
    "device_node": np.int32,
    "device_capacity_bytes": np.int64,
}
_OPTIONAL = frozenset(
    {
        "current",
        "ingress_bytes_per_second",
        "egress_bytes_per_second",
        "pins",
        "drained",
        "device_node",
        "device_capacity_bytes",
    }
)
_MODERATE_OR_INF = f"at most {_NUMBER_LIMIT:g}, or inf"
_DIMENSIONS = {"latency_seconds": 2, "route_experts": 2, "current": 2, "pins": 2}


_AnyArray = TypeVar("_AnyArray", bound=npt.NDArray[Any])


def _frozen(array: _AnyArray) -> _AnyArray:
    array.flags.writeable = False
    return array


def _array(key: str, value: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """`value` as a contiguous read-only array of `dtype`; shares memory only with arrays nobody can write."""
    try:
        given = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise ProblemError(f"{key}: not an array of numbers") from None
    dimensions = _DIMENSIONS.get(key, 1)
    if given.ndim != dimensions:
        raise ProblemError(f"{key}: has {given.ndim} dimensions, expected {dimensions}")
    if given.size and given.dtype.kind not in ("biuf" if dtype.kind == "f" else "biu"):
        expected = "numbers" if dtype.kind == "f" else "whole numbers"
        raise ProblemError(f"{key}: has type {given.dtype}, expected {expected}")
    if dtype.kind != "f" and given.size and not np.can_cast(given.dtype, dtype):
        limits = np.iinfo(dtype)
        _each(
            key,
            given,
            (given >= limits.min) & (given <= limits.max),
            f"a number in {limits.min}..{limits.max}",
        )
    shareable = given is value and given.dtype == dtype and given.flags.c_contiguous and is_constant(given)
    return given if shareable else _frozen(np.array(given, dtype=dtype, order="C"))


def is_constant(array: npt.NDArray[Any]) -> bool:
    """Whether nobody can write to the memory of an array through it or through what it is a view of."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return base is None or isinstance(base, bytes)


def _moderate(values: Float64) -> Bools:
    """Which are such that sums of their products with rates are finite, or are inf for absent."""
    return (values <= _NUMBER_LIMIT) | np.isinf(values)


def _shape(key: str, value: npt.NDArray[Any], expected: tuple[int, ...]) -> None:
    if value.shape != expected:
        raise ProblemError(f"{key}: has shape {value.shape}, expected {expected}")


def _each(key: str, value: npt.NDArray[Any], good: npt.NDArray[np.bool_], expected: str) -> None:
    if good.all():
        return
    index = np.unravel_index(int(np.argmin(good)), good.shape)
    place = ",".join(str(int(i)) for i in index)
    raise ProblemError(f"{key}[{place}]: is {value[index]}, expected {expected}")
