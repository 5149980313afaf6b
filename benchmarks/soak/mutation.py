"""Values and bytes that are wrong in ways that nobody thought of."""

from __future__ import annotations

import copy
import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 5e-324,
    1e-9, 1e308, -1e308, -0.0, 0.5, float("nan"), float("inf"), "", " ", "a", "a" * 65, "x" * 3000, "\x00",
    "\ud800", "é", "\U0001f600", "\u202e", "../..", "%00", "NaN", "1e400", "0", "-1", "2026-11-30T00:00:00Z",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999+23:59", "2026-02-30T00:00:00Z", "http://",
    "http://[::1", "javascript:0", "AAAA", "=", [], {}, [[]], [None], {"": 0}, [0] * 300, ["a"] * 70,
    {"a": {"a": {"a": {}}}},
)  # fmt: skip

TEXTS = (b"null", b"{}", b"[]", b"0", b'""', b"NaN", b"-", b"\xef\xbb\xbf{}", b"{" * 2000, b"[" * 2000, b"")
PIECES = (b"\x00", b"\xff", b"\xed\xa0\x80", b",", b":", b'"', b"{", b"]", b"\\u0000", b"\\ud800",
          b"1e999", b"-", b"\r\n", b"\xc1", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
          b"\xd9")  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of everything within a document."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        at = waiting.pop()
        if isinstance(at, dict):
            items: list[tuple[Any, Any]] = list(at.items())
        elif isinstance(at, list):
            items = list(enumerate(at[:50]))
        else:
            continue
        for key, inner in items:
            found.append((at, key))
            waiting.append(inner)
    return found


def spoiled(value: Any, rng: random.Random) -> Any:
    """A copy of a document with one to three things changed."""
    whole = {"": copy.deepcopy(value)}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, key = rng.choice(places(whole))
        kind = rng.randrange(7)
        if kind <= 2 or at is whole:
            at[key] = copy.deepcopy(rng.choice(STRANGE))
        elif kind == 3:
            del at[key]
        elif kind == 4 and isinstance(at, dict):
            at[rng.choice(("", "x", "id", "\x00", "é" * 40, key + "_", "__class__"))] = at[key]
        elif kind == 5 and isinstance(at, list):
            at.extend([at[key]] * rng.choice((1, 2, 70, 1100)))
        else:
            other, name = rng.choice(places(whole))
            at[key] = copy.deepcopy(other[name])
    return whole[""]


def spoiled_bytes(body: bytes, rng: random.Random) -> bytes:
    """Cut, turned, doubled or with something put in."""
    kind = rng.randrange(6)
    at = rng.randrange(len(body) + 1)
    if kind == 0:
        return body[:at]
    if kind == 1 and body:
        turned = bytearray(body)
        for _ in range(rng.choice((1, 1, 4, 32))):
            turned[rng.randrange(len(turned))] ^= 1 << rng.randrange(8)
        return bytes(turned)
    if kind == 2:
        return body[:at] + rng.choice(PIECES) + body[at:]
    if kind == 3:
        return body + body[at:]
    if kind == 4:
        return rng.choice(TEXTS)
    return rng.randbytes(rng.choice((1, 10, 300)))


def as_json(value: Any, rng: random.Random) -> bytes:
    """With what JSON does not know, too: NaN, surrogates alone, a mark at its beginning."""
    ascii_only = rng.random() < 0.5
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def coded(body: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Compressed, or not quite, and the Content-Encoding that is claimed."""
    codings: list[tuple[Callable[[bytes], bytes], str]] = [
        (gzip.compress, "gzip"), (gzip.compress, "GZIP, gzip"), (zlib.compress, "deflate"),
        (zlib.compress, "gzip"), (bytes, "gzip"), (bytes, "br"), (bytes, "zstd"),
        (bytes, "identity"), (bytes, ""), (bytes, "a" * 300),
    ]  # fmt: skip
    make, name = rng.choice(codings)
    made = make(body)
    return (spoiled_bytes(made, rng) if rng.random() < 0.2 else made), name
