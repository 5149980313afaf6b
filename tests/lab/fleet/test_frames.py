"""Expert calls as bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.fleet.frames import Answer, Call, Frames, MalformedFrame, check_answer, check_call, encode

WIDTH = 8


def hidden(rows: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    return np.arange(rows * WIDTH, dtype=np.float32).reshape(rows, WIDTH)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 40))
def test_frames_survive_being_cut_anywhere(rows: list[int], step: int) -> None:
    """Whatever pieces the bytes arrive in, every call comes out once, in order, as it was sent."""
    calls = [Call(i, "m", i, list(range(n)), [7] * n) for i, n in enumerate(rows)]
    sent = b"".join(encode(call, hidden(n)) for call, n in zip(calls, rows, strict=True))
    frames = Frames(Call, WIDTH)
    found = [one for at in range(0, len(sent), step) for one in frames.feed(sent[at : at + step])]
    assert [head for head, _ in found] == calls
    for (_, payload), n in zip(found, rows, strict=True):
        assert np.array_equal(payload, hidden(n))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 8,
        (0).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc",
        (2).to_bytes(4, "little") + (0).to_bytes(4, "little") + b"\xc1\xc1",
        encode(Answer(1, []), hidden(1)),
    ],
    ids=["endless", "half a row", "no MessagePack", "an answer where a call is due"],
)
def test_what_is_no_call_is_refused(data: bytes) -> None:
    """Nothing is kept of it, and nothing but `MalformedFrame` comes of it."""
    with pytest.raises(MalformedFrame):
        list(Frames(Call, WIDTH).feed(data))


def test_heads_and_payloads_must_fit() -> None:
    """A row that is not there, fewer experts than rows, an answer of another length: all are refused."""
    for call in (Call(1, "m", 0, [2], [0]), Call(1, "m", 0, [-1], [0]), Call(1, "m", 0, [0, 1], [0])):
        with pytest.raises(MalformedFrame):
            check_call(call, hidden(2))
    call = Call(1, "m", 0, [0, 1], [3, 4])
    check_call(call, hidden(2))
    check_answer(call, Answer(1, [1]), hidden(2))
    for answer, rows in ((Answer(1, []), 1), (Answer(1, [2]), 2)):
        with pytest.raises(MalformedFrame):
            check_answer(call, answer, hidden(rows))
