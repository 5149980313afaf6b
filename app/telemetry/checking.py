"""Is a window believable? What is not is left out with a pointer to it, and the rest is kept and packed.

The sums of a layer's counts are not held against `tokens * top_k`: engines drop tokens at capacity limits,
pad batches and replay, and would be refused for what they rightly saw.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

import msgspec
import numpy as np
import numpy.typing as npt

from app.schema import MAX_EXACT
from app.telemetry.decoding import Decoded
from app.telemetry.faults import Faults
from app.telemetry.packed import (
    COUNT,
    EXPERT,
    MAX_COUNT,
    NO_EXPERT,
    POSITION,
    VERSION,
    WEIGHT,
    PackedRoutes,
    PackedWindow,
    narrow,
)
from app.telemetry.registry import LayerShape, ModelShape, Registered
from app.telemetry.rows import Rows
from app.telemetry.schemas import LayerCounts, LayerRoutes, StepTime

MAX_WINDOW_SECONDS = 3600.0
MAX_AGE_SECONDS = 600.0
MAX_AHEAD_SECONDS = 60.0
MAX_K = 64
MAX_ROUTES = 262_144
"""Sampled routes of one window, over all its layers."""

_INSTANCE = re.compile(r"[A-Za-z0-9._:-]{1,64}")

Ids = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]


def check(
    decoded: Decoded, node_id: str, registered: Registered, now: datetime, faults: Faults
) -> PackedWindow | None:
    """The window as it goes to Redis; None when it cannot be taken at all. `faults` says what is missing."""
    window = decoded.window
    model = registered.models.get(window.model_id)
    if model is None:
        faults.add(
            "/model_id",
            f"model {window.model_id[:100]!r} is not registered: register it first",
            "UNKNOWN_MODEL",
        )
        return None
    if not _check_envelope(decoded, now, faults):
        return None
    counts = _all_counts(decoded.layers, model) or _counts(
        _layers(decoded.layers, decoded.layer_places, model, faults), model
    )
    if decoded.layers_given and counts.layers == []:
        # Taken without any layer, it would say that the node was idle.
        faults.add("/layers", "none of the window's layers can be taken", "NO_LAYERS")
        return None
    routes = []
    if decoded.routes:
        counted = set(model.order if counts.layers is None else counts.layers)
        routes = _routes(decoded.routes, decoded.route_places, model, counted, faults)
    return PackedWindow(
        VERSION,
        node_id,
        window.model_id,
        model.digest,
        window.sequence_number,
        _microseconds(window.window.start_at),
        _microseconds(window.window.end_at),
        window.tokens,
        counts.layers,
        *narrow(counts.counts),
        counts.experts,
        routes,
        *_step_time(window.step_time_seconds, faults),
    )


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def _check_envelope(decoded: Decoded, now: datetime, faults: Faults) -> bool:
    window = decoded.window
    before = faults.count
    if _INSTANCE.fullmatch(window.instance_uid) is None:
        faults.add("/instance_uid", "expected 1 to 64 of A-Z a-z 0-9 . _ : -", "MALFORMED")
    if not 1 <= window.sequence_number <= MAX_EXACT:
        faults.add(
            "/sequence_number", f"is {window.sequence_number}, expected 1..{MAX_EXACT}", "OUT_OF_RANGE"
        )
    if not 0 <= window.tokens <= MAX_COUNT:
        faults.add("/tokens", f"is {window.tokens}, expected 0..{MAX_COUNT}", "OUT_OF_RANGE")
    start, end = window.window.start_at, window.window.end_at
    seconds = (end - start).total_seconds()
    if seconds <= 0:
        faults.add("/window/end_at", "is not after start_at", "END_NOT_AFTER_START")
    elif seconds > MAX_WINDOW_SECONDS:
        faults.add(
            "/window/end_at",
            f"is {seconds:g} s after start_at, expected at most {MAX_WINDOW_SECONDS:g} s",
            "WINDOW_TOO_LONG",
        )
    ahead = (end - now).total_seconds()
    if ahead > MAX_AHEAD_SECONDS or -ahead > MAX_AGE_SECONDS:
        place = f"{ahead:.0f} s in the future" if ahead > 0 else f"{-ahead:.0f} s ago"
        faults.add(
            "/window/end_at",
            f"is {place} (it is {now.isoformat(timespec='milliseconds')} here), expected at most "
            f"{MAX_AGE_SECONDS:g} s ago and {MAX_AHEAD_SECONDS:g} s ahead",
            "CLOCK_SKEW",
        )
    return faults.count == before


def _step_time(given: StepTime | None, faults: Faults) -> tuple[float | None, float | None]:
    if given is None:
        return None, None
    for name, value in (("p50", given.p50), ("p99", given.p99)):
        if not (math.isfinite(value) and value >= 0):
            faults.add(
                f"/step_time_seconds/{name}", f"is {value}, expected a finite number >= 0", "OUT_OF_RANGE"
            )
            return None, None
    return given.p50, given.p99


# --- counts


class _Refused(Exception):
    """A layer or a set of routes that cannot be taken."""

    def __init__(self, pointer: str, detail: str, code: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
        self.detail = detail
        self.code = code


class _Counts(msgspec.Struct, frozen=True):
    """As in `PackedWindow`, not narrowed yet."""

    layers: list[int] | None
    counts: npt.NDArray[np.uint32]
    experts: bytes | None


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer that can be taken. ids: whose counts they are; None: one for each expert."""

    layer: int
    counts: npt.NDArray[np.uint32]
    ids: Ids | None


_layer_of, _counts_of, _ids_of = map(attrgetter, ("layer", "counts", "expert_ids"))


def _all_counts(layers: Sequence[LayerCounts], model: ModelShape) -> _Counts | None:
    """What agents send: all layers in order, each with all its counts, packed. None for anything else."""
    if isinstance(layers, Rows):
        if layers.numbers != model.order or layers.count_bytes != model.count_bytes:
            return None
        return _Counts(None, layers.counts.reshape(-1), None)
    if list(map(_layer_of, layers)) != model.order or list(map(_ids_of, layers)).count(None) != len(layers):
        return None
    counts = list(map(_counts_of, layers))
    if list(map(len, counts)) != model.count_bytes:
        return None
    try:
        return _Counts(None, np.frombuffer(b"".join(counts), COUNT), None)
    except TypeError:  # a list among them
        return None


def _counts(layers: list[_Layer], model: ModelShape) -> _Counts:
    """Any layers, dense or sparse, in the model's order; sparse where that is shorter."""
    layers.sort(key=lambda layer: model.offset[layer.layer])
    numbers = [layer.layer for layer in layers]
    counts = [layer.counts for layer in layers]
    listed = sum(map(len, counts))
    experts = sum(model.layers[number].experts for number in numbers)
    if 3 * listed < experts:
        places = [
            (np.arange(len(layer.counts)) if layer.ids is None else layer.ids).astype(POSITION)
            + POSITION.type(model.offset[layer.layer])
            for layer in layers
        ]
        return _Counts(numbers, _joined(counts), _joined(places).tobytes())
    dense = []
    for layer in layers:
        if layer.ids is None:
            dense.append(layer.counts)
        else:
            spread = np.zeros(model.layers[layer.layer].experts, COUNT)
            spread[layer.ids] = layer.counts
            dense.append(spread)
    return _Counts(None if numbers == model.order else numbers, _joined(dense), None)


def _joined(parts: Sequence[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint32]:
    return np.concatenate(parts) if parts else np.zeros(0, COUNT)


def _layers(
    given: Sequence[LayerCounts], places: Sequence[int] | None, model: ModelShape, faults: Faults
) -> list[_Layer]:
    taken: dict[int, _Layer] = {}
    for index, layer in zip(places or range(len(given)), given, strict=True):
        try:
            if layer.layer in taken:
                raise _Refused("/layer", f"layer {layer.layer} is there twice", "REPEATED_LAYER")
            taken[layer.layer] = _layer(layer, _shape(layer.layer, model))
        except _Refused as refused:
            faults.add(f"/layers/{index}{refused.pointer}", refused.detail, refused.code)
    return list(taken.values())


def _shape(layer: int, model: ModelShape) -> LayerShape:
    shape = model.layers.get(layer)
    if shape is None:
        raise _Refused("/layer", f"the model has no MoE layer {layer}", "UNKNOWN_LAYER")
    return shape


def _layer(layer: LayerCounts, shape: LayerShape) -> _Layer:
    packed = _packed_numbers(layer.counts, "/counts", COUNT, MAX_COUNT, "counts")
    counts = np.frombuffer(packed, COUNT)
    number = len(counts)
    if layer.expert_ids is None:
        if number != shape.experts:
            raise _Refused(
                "/counts",
                f"has {number} counts, expected {shape.experts}, one per expert of layer {shape.layer}",
                "WRONG_LENGTH",
            )
        return _Layer(shape.layer, counts, None)
    packed = _packed_numbers(layer.expert_ids, "/expert_ids", EXPERT, NO_EXPERT - 1, "expert ids")
    ids = np.frombuffer(packed, EXPERT)
    if len(ids) != number:
        raise _Refused(
            "/counts", f"has {number} counts, expected {len(ids)}, one per expert_ids", "WRONG_LENGTH"
        )
    outside = ids >= shape.experts
    if outside.any():
        at = int(np.argmax(outside))
        raise _Refused(
            f"/expert_ids/{at}", f"is {ids[at]}, expected 0..{shape.experts - 1}", "EXPERT_OUT_OF_RANGE"
        )
    order = np.argsort(ids, kind="stable")
    repeated = ids[order[1:]] == ids[order[:-1]]
    if repeated.any():
        at = int(order[1:][repeated].min())
        raise _Refused(f"/expert_ids/{at}", f"expert {ids[at]} is there twice", "REPEATED_EXPERT")
    return _Layer(shape.layer, counts, ids)


def _packed_numbers(
    given: Sequence[int] | bytes,
    pointer: str,
    dtype: "np.dtype[np.uint32] | np.dtype[np.uint16]",
    limit: int,
    what: str,
) -> bytes:
    """Little-endian bytes of whole numbers in 0..limit."""
    if isinstance(given, bytes):
        if len(given) % dtype.itemsize:
            raise _Refused(
                pointer,
                f"has {len(given)} bytes, expected {what} of {dtype.itemsize} bytes each, little-endian",
                "WRONG_LENGTH",
            )
        return given
    try:
        numbers = np.asarray(given, np.int64)
        bad = (numbers < 0) | (numbers > limit)
    except OverflowError:
        bad = np.asarray([not 0 <= number <= limit for number in given], np.bool_)
        numbers = np.zeros(0, np.int64)
    if bad.any():
        at = int(np.argmax(bad))
        raise _Refused(f"{pointer}/{at}", f"is {_shown(given[at])}, expected 0..{limit}", "OUT_OF_RANGE")
    return numbers.astype(dtype).tobytes()


def _shown(number: float) -> str:
    # A number of more digits than Python converts to text would raise.
    return str(number) if -(2**64) < number < 2**64 else "a huge number"


# --- routes


@dataclass(frozen=True, eq=False)
class _Sets:
    """One entry of `routes` whose form is right; its rows are still to be judged.

    ids uint16[S, k]; weights float32[S] or None (1 each)
    """

    index: int
    shape: LayerShape
    ids: Ids
    given: list[list[int]] | bytes
    weights: npt.NDArray[np.float32] | None


def _routes(
    given: Sequence[LayerRoutes],
    places: Sequence[int] | None,
    model: ModelShape,
    counted: set[int],
    faults: Faults,
) -> list[PackedRoutes]:
    entries: list[_Sets] = []
    seen: set[int] = set()
    left = MAX_ROUTES
    for index, routes in zip(places or range(len(given)), given, strict=True):
        try:
            shape = _shape(routes.layer, model)
            if routes.layer in seen:
                raise _Refused("/layer", f"layer {routes.layer} is there twice", "REPEATED_LAYER")
            if routes.layer not in counted:
                raise _Refused(
                    "/layer", f"the window has no counts of layer {routes.layer} to scale by", "NO_COUNTS"
                )
            entry = _sets(index, routes, shape, left)
        except _Refused as refused:
            faults.add(f"/routes/{index}{refused.pointer}", refused.detail, refused.code)
            continue
        seen.add(routes.layer)
        left -= len(entry.ids)
        entries.append(entry)
    packed = []
    for entry, good in zip(entries, _judged(entries), strict=True):
        if not good.all():
            _explain(entry, good, faults)
        ids = entry.ids[good]
        if len(ids):
            weights = None if entry.weights is None else entry.weights[good].astype(WEIGHT).tobytes()
            packed.append(
                PackedRoutes(entry.shape.layer, ids.shape[1], ids.astype(EXPERT).tobytes(), weights)
            )
    return packed


def _sets(index: int, routes: LayerRoutes, shape: LayerShape, left: int) -> _Sets:
    k = shape.top_k if routes.k is None else routes.k
    if not 1 <= k <= MAX_K:
        raise _Refused("/k", f"is {_shown(k)}, expected 1..{MAX_K}", "OUT_OF_RANGE")
    experts = routes.experts
    if isinstance(experts, bytes):
        if len(experts) % (k * EXPERT.itemsize):
            raise _Refused(
                "/experts",
                f"has {len(experts)} bytes, expected routes of {k} ids of {EXPERT.itemsize} bytes",
                "WRONG_LENGTH",
            )
        rows = len(experts) // (k * EXPERT.itemsize)
    else:
        rows = len(experts)
    if rows > left:
        raise _Refused(
            "/experts", f"has {rows} routes, expected at most {MAX_ROUTES} in a window", "TOO_MANY_ROUTES"
        )
    ids = np.frombuffer(experts, EXPERT).reshape(rows, k) if isinstance(experts, bytes) else _rows(experts)
    return _Sets(index, shape, ids.astype(np.uint16, copy=False), experts, _weights(routes, rows))


def _rows(experts: list[list[int]]) -> Ids:
    """uint16[S, K], padded; what is no id at all becomes one that no layer has, and is explained later."""
    width = min(MAX_K, max(map(len, experts), default=1)) or 1
    ids = np.full((len(experts), width), NO_EXPERT, np.uint16)
    for row, members in enumerate(experts):
        if len(members) > width:
            ids[row, 0] = NO_EXPERT - 1
        else:
            ids[row, : len(members)] = [
                expert if 0 <= expert < NO_EXPERT else NO_EXPERT - 1 for expert in members
            ]
    return ids


def _weights(routes: LayerRoutes, rows: int) -> npt.NDArray[np.float32] | None:
    given = routes.weights
    if given is None:
        return None
    if isinstance(given, bytes):
        if len(given) != rows * WEIGHT.itemsize:
            raise _Refused(
                "/weights",
                f"has {len(given)} bytes, expected {rows * WEIGHT.itemsize}, {WEIGHT.itemsize} a route",
                "WRONG_LENGTH",
            )
        return np.frombuffer(given, WEIGHT).astype(np.float32, copy=False)
    if len(given) != rows:
        raise _Refused(
            "/weights", f"has {len(given)} weights, expected {rows}, one per route", "WRONG_LENGTH"
        )
    with np.errstate(over="ignore"):
        return np.asarray(given, np.float64).astype(np.float32)


def _judged(entries: Sequence[_Sets]) -> list[Mask]:
    """For each entry bool[S]: may the row be taken? Entries of one width are judged together."""
    good: list[Mask] = [np.ones(len(entry.ids), np.bool_) for entry in entries]
    by_width: dict[int, list[int]] = {}
    for position, entry in enumerate(entries):
        by_width.setdefault(entry.ids.shape[1], []).append(position)
    for positions in by_width.values():
        group = [entries[position] for position in positions]
        ids = np.concatenate([entry.ids for entry in group])
        sizes = [len(entry.ids) for entry in group]
        limit = np.repeat(np.asarray([entry.shape.experts for entry in group], np.uint16), sizes)
        taken = _proper(ids, limit)
        at = 0
        for position, size in zip(positions, sizes, strict=True):
            good[position] = taken[at : at + size]
            at += size
    for entry, mask in zip(entries, good, strict=True):
        if entry.weights is not None:
            mask &= np.isfinite(entry.weights) & (entry.weights >= 0)
    return good


def _proper(ids: Ids, limit: Ids) -> Mask:
    """bool[S]: different ids below the limit, at least one, and pads only after them. limit uint16[S]"""
    # Column by column: reducing over a handful of neighbours is slow, over a handful of columns it is not.
    columns = np.ascontiguousarray(ids.T)
    pads = columns == NO_EXPERT
    proper: Mask = ~pads[0] & ((columns < limit) | pads).all(axis=0)
    if len(columns) > 1:
        # Agents send ascending ids, which cannot repeat: only other rows are worth sorting.
        ascending = ((columns[1:] > columns[:-1]) | pads[1:]).all(axis=0)
        others = np.flatnonzero(~ascending)
        if len(others):
            ordered = np.sort(ids[others], axis=1)
            repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_EXPERT)
            proper[others] &= ~repeated.any(axis=1)
            proper[others] &= (pads[1:, others] | ~pads[:-1, others]).all(axis=0)
    return proper


def _explain(entry: _Sets, good: Mask, faults: Faults) -> None:
    bad = np.flatnonzero(~good)
    told = 0
    for row in bad.tolist():
        if faults.full:
            break
        members = entry.given[row] if isinstance(entry.given, list) else entry.ids[row].tolist()
        where, detail, code = _row_fault(entry, row, members)
        faults.add(f"/routes/{entry.index}/{where}/{row}", detail, code)
        told += 1
    if told < len(bad):
        faults.add(f"/routes/{entry.index}", "further routes", "FURTHER", count=len(bad) - told)


def _row_fault(entry: _Sets, row: int, members: list[int]) -> tuple[str, str, str]:
    """Where, what and which code, of a row that `_judged` refused."""
    experts = entry.shape.experts
    if isinstance(entry.given, bytes):
        length = next((at for at, expert in enumerate(members) if expert == NO_EXPERT), len(members))
        if any(expert != NO_EXPERT for expert in members[length:]):
            return "experts", f"has an id after {NO_EXPERT}, which ends a route", "MALFORMED"
        members = members[:length]
    if not members:
        return "experts", "expected at least one expert", "EMPTY_ROUTE"
    if len(members) > min(MAX_K, experts):
        return (
            "experts",
            f"has {len(members)} experts, expected at most {min(MAX_K, experts)}",
            "TOO_MANY_EXPERTS",
        )
    seen: set[int] = set()
    for expert in members:
        if not 0 <= expert < experts:
            return "experts", f"names {_shown(expert)}, expected 0..{experts - 1}", "EXPERT_OUT_OF_RANGE"
        if expert in seen:
            return "experts", f"names expert {expert} twice", "REPEATED_EXPERT"
        seen.add(expert)
    weight = "absent" if entry.weights is None else entry.weights[row]
    return "weights", f"is {weight}, expected a finite number >= 0", "OUT_OF_RANGE"
