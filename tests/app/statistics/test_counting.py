"""Counts are exact in whatever type they are, and in the narrowest that has room."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.statistics import counting
from app.statistics.counting import added, low_halves, no_counts, warm, wider


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from([np.uint8, np.uint16, np.uint32]), st.integers(0, 3), st.integers(0, 2**32 - 1)
        ),
        max_size=12,
    )
)
def test_sums_are_those_of_whole_numbers(parts: list[tuple[type, int, int]]) -> None:
    """Whatever is added to whichever part, until there is no room and after it."""
    counts, expected = no_counts(6), [0] * 6
    counted: np.ndarray
    for kind, at, value in parts:
        counted = np.asarray([value & np.iinfo(kind).max, 1, 0], kind)
        counts, total = added(counts, counted, at)
        assert total == sum(counted.tolist())
        for index, number in enumerate(counted.tolist()):
            expected[at + index] += number
        assert counts.tolist() == expected
        low, more = low_halves(counts)
        assert low.tolist() == [number & 0xFFFF for number in expected]
        assert more == any(number >> 16 for number in expected)


@pytest.mark.parametrize(("windows", "kind"), [(1, np.uint16), (65537, np.uint32), (65538, np.uint32)])
def test_they_are_as_narrow_as_they_may_be(windows: int, kind: type) -> None:
    counts, counted = no_counts(1), np.ones(1, np.uint16)
    for _ in range(windows):
        counts, _ = added(counts, counted)
    assert counts.dtype == kind
    assert counts.tolist() == [windows]


@pytest.mark.parametrize("number", [65_536, 65_537, 140_000])
def test_sums_of_many_do_not_wrap(number: int) -> None:
    counted = np.full(number, 65_535, np.uint16)
    counts, total = added(no_counts(number), counted)
    assert total == 65_535 * number
    again, total = added(counts, counted)
    assert total == 65_535 * number
    assert (again == 2 * 65_535).all()


def test_the_widest_has_no_wider_one() -> None:
    with pytest.raises(StopIteration):
        wider(np.zeros(1, np.uint64))


def test_nothing_is_compiled_once_it_is_warm() -> None:
    """Neither for windows as they are unpacked nor for parts of them."""
    warm()
    kernel: Any = counting._add
    before = len(kernel.signatures)
    for kind, count in (("<u1", 255), ("<u2", 65_535), ("<u4", 2**32 - 1)):
        counted = np.frombuffer(np.full(4, count, kind).tobytes(), kind)
        for part in (counted, counted[1:3]):
            counts = no_counts(4)
            for _ in range(3):
                counts, _ = added(counts, part)
    assert len(kernel.signatures) == before
