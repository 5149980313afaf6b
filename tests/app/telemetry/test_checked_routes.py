"""Routes are judged all at once, as one would judge them one by one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry.checked_routes import _proper
from app.telemetry.packed import NO_EXPERT


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
