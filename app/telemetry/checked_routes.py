"""The sampled routes of a window that can be taken; each that cannot is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from app.telemetry.faults import Faults
from app.telemetry.packed import EXPERT, NO_EXPERT, WEIGHT, PackedRoutes
from app.telemetry.refused import Refused, shape_of, shown
from app.telemetry.registry import LayerShape, ModelShape
from app.telemetry.schemas import LayerRoutes

MAX_K = 64
MAX_ROUTES = 262_144
"""Sampled routes of one window, over all its layers."""

Ids = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]


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


def routes_of(
    given: Sequence[LayerRoutes],
    places: Sequence[int] | None,
    model: ModelShape,
    counted: set[int],
    faults: Faults,
) -> list[PackedRoutes]:
    """Those that can be taken; of others `faults` tells. counted: layers that the window has counts of."""
    usual = _all(given, model, counted)
    if usual is not None:
        return usual
    entries: list[_Sets] = []
    seen: set[int] = set()
    left = MAX_ROUTES
    for index, routes in zip(places or range(len(given)), given, strict=True):
        try:
            shape = shape_of(routes.layer, model)
            if routes.layer in seen:
                raise Refused("/layer", f"layer {routes.layer} is named twice", "REPEATED_LAYER")
            if routes.layer not in counted:
                raise Refused(
                    "/layer", f"the window has no counts of layer {routes.layer} to scale by", "NO_COUNTS"
                )
            entry = _sets(index, routes, shape, left)
        except Refused as refused:
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


def _all(given: Sequence[LayerRoutes], model: ModelShape, counted: set[int]) -> list[PackedRoutes] | None:
    """What agents send: packed, of one width, and nothing wrong with any. They are stored as they came. None
    for anything else."""
    layers = [routes.layer for routes in given]
    if len(set(layers)) < len(layers) or not counted.issuperset(layers):
        return None
    shapes = [model.layers[layer] for layer in layers]
    widths = {shape.top_k if it.k is None else it.k for it, shape in zip(given, shapes, strict=True)}
    experts = [it.experts for it in given]
    weights = [it.weights for it in given]
    k = widths.pop() if widths else 0
    if widths or not 1 <= k <= MAX_K or not all(isinstance(ids, bytes) for ids in experts):
        return None
    sizes = [len(ids) // (k * EXPERT.itemsize) for ids in experts]
    if sum(sizes) > MAX_ROUTES or any(
        len(ids) != rows * k * EXPERT.itemsize for ids, rows in zip(experts, sizes, strict=True)
    ):
        return None
    ids = np.frombuffer(b"".join(cast("list[bytes]", experts)), EXPERT).reshape(-1, k)
    limit = np.repeat(np.asarray([shape.experts for shape in shapes], np.uint16), sizes)
    if not _proper(ids.astype(np.uint16, copy=False), limit).all() or not _weighted(weights, sizes):
        return None
    return [
        PackedRoutes(layer, k, cast(bytes, sets), cast("bytes | None", weight))
        for layer, sets, weight in zip(layers, experts, weights, strict=True)
        if sets
    ]


def _weighted(weights: Sequence[list[float] | bytes | None], sizes: Sequence[int]) -> bool:
    """Whether they are all absent, or all packed, one a route, finite and >= 0."""
    if weights.count(None) == len(weights):
        return True
    if not all(
        isinstance(given, bytes) and len(given) == rows * WEIGHT.itemsize
        for given, rows in zip(weights, sizes, strict=True)
    ):
        return False
    values = np.frombuffer(b"".join(cast("list[bytes]", weights)), WEIGHT)
    return bool(_weighable(values).all())


def _sets(index: int, routes: LayerRoutes, shape: LayerShape, left: int) -> _Sets:
    k = shape.top_k if routes.k is None else routes.k
    if not 1 <= k <= MAX_K:
        raise Refused("/k", f"is {shown(k)}, expected 1..{MAX_K}", "OUT_OF_RANGE")
    experts = routes.experts
    if isinstance(experts, bytes):
        if len(experts) % (k * EXPERT.itemsize):
            raise Refused(
                "/experts",
                f"has {len(experts)} bytes, expected routes of {k} ids of {EXPERT.itemsize} bytes",
                "WRONG_LENGTH",
            )
        rows = len(experts) // (k * EXPERT.itemsize)
    else:
        rows = len(experts)
    if rows > left:
        raise Refused(
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
            raise Refused(
                "/weights",
                f"has {len(given)} bytes, expected {rows * WEIGHT.itemsize}, {WEIGHT.itemsize} a route",
                "WRONG_LENGTH",
            )
        return np.frombuffer(given, WEIGHT).astype(np.float32, copy=False)
    if len(given) != rows:
        raise Refused("/weights", f"has {len(given)} weights, expected {rows}, one per route", "WRONG_LENGTH")
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
            mask &= _weighable(entry.weights)
    return good


def _weighable(weights: npt.NDArray[np.float32]) -> Mask:
    """bool[S]: finite and >= 0."""
    return np.isfinite(weights) & (weights >= 0)


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
            return "experts", f"names {shown(expert)}, expected 0..{experts - 1}", "EXPERT_OUT_OF_RANGE"
        if expert in seen:
            return "experts", f"names expert {expert} twice", "REPEATED_EXPERT"
        seen.add(expert)
    weight = "absent" if entry.weights is None else entry.weights[row]
    return "weights", f"is {weight}, expected a finite number >= 0", "OUT_OF_RANGE"
