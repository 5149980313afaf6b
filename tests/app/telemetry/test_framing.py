"""Streams are cut into windows wherever their bytes were cut before."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BodyTooLarge
from app.telemetry import framing
from app.telemetry.decoding import Malformed
from app.telemetry.framing import MAX_BLANK_LINES, MAX_STRANGE_VALUES, Framing, Lines, Values

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=70_000)
    | st.datetimes(timezones=st.timezones()).filter(lambda d: d.year > 1),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=30,
)


def cut(framing: Framing, body: bytes, step: int) -> list[bytes]:
    found = []
    for at in range(0, len(body), step):
        found += list(framing.feed(body[at : at + step]))
    return found + list(framing.finish())


@given(st.lists(VALUES, max_size=4), st.integers(1, 5000))
@settings(max_examples=60)
def test_messagepack_values_are_found(values: list[Any], step: int) -> None:
    """Values of every kind, one after another, in pieces of any size: the same values."""
    bodies = [msgspec.msgpack.encode(value) for value in values]
    body = b"".join(bodies)
    assert cut(Values(), body, max(step, len(body) // 500)) == bodies


@pytest.mark.parametrize(
    "body",
    [
        b"\xc7\x03\x05abc",
        b"\xc8\x00\x03\x05abc",
        b"\xc9\x00\x00\x00\x03\x05abc",
        b"\xd4\x05a",
        b"\xd5\x05ab",
        b"\xd6\x05abcd",
        b"\xd7\x05" + b"a" * 8,
        b"\xd8\x05" + b"a" * 16,
        b"\xca\x00\x00\x00\x00",
        b"\xdf\x00\x00\x00\x01\x01\x02",
        b"\xdd\x00\x00\x00\x02\x01\x02",
        b"\xdb\x00\x00\x00\x01a",
        b"\xd0\x81",
        b"\xd3" + b"\xff" * 8,
    ],
)
@pytest.mark.parametrize("step", [1, 3, 100])
def test_heads_that_the_encoder_does_not_write(body: bytes, step: int) -> None:
    """Long forms and extensions of every size are as long as the format says."""
    msgspec.msgpack.decode(body)
    assert cut(Values(), body * 3, step) == [body] * 3


def test_broken_messagepack() -> None:
    """A byte that begins nothing, and a value that ends too early, are malformed."""
    with pytest.raises(Malformed, match="0xc1"):
        cut(Values(), b"\x01\xc1", 10)
    with pytest.raises(Malformed, match="truncated"):
        cut(Values(), b"\x01\x92\x01", 10)


@given(
    st.lists(st.binary(min_size=1, max_size=50).filter(lambda line: line.strip() and b"\n" not in line)),
    st.integers(1, 99),
)
@settings(max_examples=100)
def test_lines_are_found(lines: list[bytes], step: int) -> None:
    """With LF or CRLF, blank lines in between, with and without the last line's end."""
    expected = [line.strip() for line in lines]
    assert cut(Lines(), b"\r\n\n".join(lines), step) == expected
    assert cut(Lines(), b"\n".join(lines) + b"\n", step) == expected


@pytest.mark.parametrize("kind", [Lines, Values])
def test_memory_is_bounded_by_one_window(kind: type[Framing], monkeypatch: pytest.MonkeyPatch) -> None:
    """A window beyond the limit is refused before it is gathered; many windows below it are fine."""
    monkeypatch.setattr(framing, "MAX_WINDOW_BYTES", 1000)
    small = b"x" * 500 + b"\n" if kind is Lines else msgspec.msgpack.encode({"x": b"x" * 500})
    assert len(cut(kind(), small * 50, 700)) == 50
    large = b"x" * 1001 if kind is Lines else b"\xc6\x00\x00\x04\x00"
    with pytest.raises(BodyTooLarge):
        list(kind().feed(large))


def test_blank_lines_end() -> None:
    """Some are nothing; endless ones are refused."""
    assert cut(Lines(), b"\n" * MAX_BLANK_LINES + b"1\n", 64) == [b"1"]
    with pytest.raises(Malformed, match="blank"):
        cut(Lines(), b"\n" * (MAX_BLANK_LINES + 2), 64)


def test_values_that_are_no_windows_are_not_taken_apart_for_ever() -> None:
    """A byte may be a value, and a few bytes of a coding a million of them: the stream ends after a few."""
    taken: list[bytes] = []
    with pytest.raises(Malformed, match="are not maps"):
        taken.extend(Values().feed(b"\x00" * (1 << 20)))
    assert len(taken) == MAX_STRANGE_VALUES
    assert list(Values().feed(b"\x80" + b"\x00" * MAX_STRANGE_VALUES + b"\x80"))[-1] == b"\x80"
