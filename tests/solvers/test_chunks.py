"""Ranges of about equal work, and threads that run them."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solvers import chunks
from solvers.chunks import even_ranges, ranges, side_by_side


@given(st.lists(st.integers(0, 50_000), max_size=30))
def test_ranges_share_the_work(work: list[int]) -> None:
    """Up to four ranges that follow each other, cover every item once and hold a quarter of the work each, up
    to one item; one range where there is little to do."""
    found = ranges(np.array(work, np.int64))
    assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
    assert found[-1][1] == len(work)
    if sum(work) < chunks._LEAST_WORK:
        assert len(found) == 1
    else:
        assert all(first < last for first, last in found)
        assert len(found) <= 4
        most = max(sum(work[first:last]) for first, last in found)
        assert most <= sum(work) / 4 + max(work)


@given(st.integers(0, 200_000), st.integers(0, 50_000))
def test_even_ranges_are_ranges_of_equal_work(items: int, work: int) -> None:
    """As many items in each, up to one, in as many ranges as unequal work of that sum has at most."""
    found = even_ranges(items, work)
    assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
    assert found[-1][1] == items
    sizes = [last - first for first, last in found]
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == (1 if items == 0 or items * work < chunks._LEAST_WORK else min(items, 4))


def test_side_by_side_is_in_order_and_on_threads() -> None:
    """Results come in the order of the ranges, from other threads; one range stays on the caller's."""
    parts = [(0, 3), (3, 4), (4, 9), (9, 10)]
    assert side_by_side(lambda first, last: list(range(first, last)), parts) == [
        list(range(first, last)) for first, last in parts
    ]
    here = threading.get_ident()
    assert side_by_side(lambda *_: threading.get_ident(), [(0, 1)]) == [here]
    assert here not in side_by_side(lambda *_: threading.get_ident(), parts)


def test_failures_come_through() -> None:
    """An exception in a range reaches the caller, and the threads work on after it."""

    def fail(first: int, _: int) -> int:
        if first == 2:
            raise MemoryError("no room")
        return first

    with pytest.raises(MemoryError, match="no room"):
        side_by_side(fail, [(0, 1), (2, 3), (4, 5)])
    assert side_by_side(fail, [(0, 1), (4, 5)]) == [0, 4]
