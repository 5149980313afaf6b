"""Routes are judged all at once, as one would judge them one by one."""

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry import checked_routes
from app.telemetry.checked_routes import _proper, routes_of
from app.telemetry.faults import Faults
from app.telemetry.packed import NO_EXPERT, PackedRoutes
from app.telemetry.registry import LayerShape, ModelShape
from app.telemetry.schemas import LayerRoutes


def naive(row: list[int], limit: int) -> bool:
    """Cut at the first pad; nothing but pads after it; different ids below the limit, at least one."""
    length = row.index(NO_EXPERT) if NO_EXPERT in row else len(row)
    members, rest = row[:length], row[length:]
    return (
        length > 0
        and all(expert == NO_EXPERT for expert in rest)
        and all(expert < limit for expert in members)
        and len(set(members)) == length
    )


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    k = draw(st.integers(1, 5))
    ids = st.integers(0, 6) | st.just(NO_EXPERT) | st.just(NO_EXPERT - 1)
    drawn = draw(st.lists(st.lists(ids, min_size=k, max_size=k), min_size=1, max_size=30))
    ordered = draw(st.lists(st.booleans(), min_size=len(drawn), max_size=len(drawn)))
    found = [sorted(row) if order else row for row, order in zip(drawn, ordered, strict=True)]
    return found, draw(st.lists(st.integers(1, 7), min_size=len(drawn), max_size=len(drawn)))


@given(rows())
@settings(max_examples=300)
def test_rows_are_judged_as_one_by_one(drawn: tuple[list[list[int]], list[int]]) -> None:
    """Ascending or not, padded or not, repeated, out of range or empty: the naive verdict."""
    ids, limits = drawn
    found = _proper(np.asarray(ids, np.uint16), np.asarray(limits, np.uint16))
    assert found.tolist() == [naive(row, limit) for row, limit in zip(ids, limits, strict=True)]


MODEL = ModelShape.of("d", [LayerShape(1, 4, 2), LayerShape(2, 6, 2), LayerShape(5, 6, 3)])


@st.composite
def sampled(draw: st.DrawFn) -> LayerRoutes:
    """Mostly as agents send them, with anything wrong now and then."""
    k = draw(st.sampled_from([2, 2, 2, 3]))
    number = draw(st.integers(0, 4))
    row = st.permutations([0, 1, 2, 3, NO_EXPERT]).map(lambda ids: [*sorted(ids[:k])])
    ids = draw(st.lists(row, min_size=number, max_size=number))
    weights = draw(st.none() | st.lists(st.sampled_from([1.0, 0.0, 2.5, -1.0, np.nan]), max_size=5))
    packed = np.asarray(ids, "<u2").tobytes()[: draw(st.sampled_from([1 << 20, 1 << 20, 1 << 20, 3]))]
    return LayerRoutes(
        draw(st.sampled_from([1, 1, 2, 2, 5, 7])),
        packed if draw(st.integers(0, 5)) else ids,
        draw(st.sampled_from([k, k, k, None, 0])),
        weights if weights is None or draw(st.booleans()) else np.asarray(weights, "<f4").tobytes(),
    )


@given(st.lists(sampled(), min_size=1, max_size=3), st.sampled_from([{1, 2, 5}, {1, 2}]))
@settings(max_examples=500)
def test_all_at_once_is_as_entry_by_entry(entries: list[LayerRoutes], counted: set[int]) -> None:
    """The same routes and the same faults, whichever way they are looked at."""

    def found() -> tuple[list[PackedRoutes], int, list[str]]:
        faults = Faults()
        taken = routes_of(entries, None, MODEL, counted, faults)
        return taken, faults.count, [fault.detail for fault in faults.listed]

    usual = found()
    with patch.object(checked_routes, "_all", return_value=None):
        assert usual == found()


def test_what_agents_send_is_looked_at_all_at_once() -> None:
    ids = np.asarray([[0, 1], [2, NO_EXPERT]], "<u2").tobytes()
    entries = [LayerRoutes(1, ids), LayerRoutes(2, ids, 2), LayerRoutes(5, b"", 2)]
    expected = [PackedRoutes(1, 2, ids, None), PackedRoutes(2, 2, ids, None)]
    assert checked_routes._all(entries, MODEL, {1, 2, 5}) == expected
    weights = np.asarray([1.0, 0.5], "<f4").tobytes()
    weighed = [LayerRoutes(1, ids, None, weights)]
    assert checked_routes._all(weighed, MODEL, {1}) == [PackedRoutes(1, 2, ids, weights)]
    assert checked_routes._all(weighed, MODEL, {2}) is None
