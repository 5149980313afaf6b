"""Room is promised once, and only what is whole is held."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplace_agent.holdings import ExpertKey, Holdings, NoRoom, grouped, holds_digest


def key(expert: int, layer: int = 0) -> ExpertKey:
    return ExpertKey("m", layer, expert)


def test_room_is_reserved_before_the_copy_and_freed_after_failure() -> None:
    """Two copies cannot be promised the same bytes; an abandoned one gives its room back."""
    holdings = Holdings({"a": 10})
    holdings.reserve(key(1), 6, None)
    with pytest.raises(NoRoom, match="m/0/2: needs 5 bytes on device a, which has 4 free"):
        holdings.reserve(key(2), 5, None)
    assert key(1) not in holdings
    holdings.abandon(key(1))
    holdings.reserve(key(2), 5, "a")
    holdings.complete(key(2))
    assert key(2) in holdings
    assert holdings.used_bytes == 5


def test_the_order_names_the_device_or_the_freest_is_taken() -> None:
    """Without a device the one with most room takes the expert; an unknown device is refused."""
    holdings = Holdings({"a": 10, "b": 12})
    assert holdings.reserve(key(1), 6, None).device_id == "b"
    assert holdings.reserve(key(2), 6, None).device_id == "a"
    with pytest.raises(NoRoom, match="no device c"):
        holdings.reserve(key(3), 1, "c")


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_used_bytes_never_pass_capacity(steps: list[tuple[int, bool]]) -> None:
    """Whatever is tried, used bytes are those of what is held and never more than there are."""
    holdings = Holdings({"a": 7, "b": 5})
    for expert, add in steps:
        if not add and key(expert) in holdings:
            holdings.remove(key(expert))
        elif add and key(expert) not in holdings:
            try:
                holdings.reserve(key(expert), 3, None)
            except NoRoom:
                continue
            holdings.complete(key(expert))
        assert holdings.used_bytes == 3 * len(holdings) <= holdings.capacity_bytes


def test_digest_and_groups_are_those_of_the_contract() -> None:
    """The digest is over sorted lines as text, the groups are by layer in ascending order."""
    keys = {key(2), key(10), key(0, 10), key(1, 9)}
    lines = "m/0/10\nm/0/2\nm/10/0\nm/9/1"
    assert holds_digest(keys) == hashlib.sha256(lines.encode()).hexdigest()
    assert grouped(keys) == [
        {"model_id": "m", "layer": 0, "experts": [2, 10]},
        {"model_id": "m", "layer": 9, "experts": [1]},
        {"model_id": "m", "layer": 10, "experts": [0]},
    ]
    assert holds_digest([]) == hashlib.sha256(b"").hexdigest()
