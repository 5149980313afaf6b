"""Output that any terminal can show: what its coding lacks is written in ASCII, so nothing fails for a
sign."""

from __future__ import annotations

import codecs
import io
import sys

_HANDLER = "moeplace"

_SIGNS = {
    "\N{HORIZONTAL ELLIPSIS}": "~",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MIDDLE DOT}": ".",
    "\N{BULLET}": "*",
    "\N{RIGHTWARDS ARROW}": ">",
    "\N{LESS-THAN OR EQUAL TO}": "<",
    "\N{GREATER-THAN OR EQUAL TO}": ">",
    "\N{CHECK MARK}": "v",
    "\N{NO-BREAK SPACE}": " ",
}
_HORIZONTAL = frozenset(
    "\u2500\u2501\u2504\u2505\u2508\u2509\u254c\u254d\u2550\u2574\u2576\u2578\u257a\u257c\u257e"
)
_VERTICAL = frozenset(
    "\u2502\u2503\u2506\u2507\u250a\u250b\u254e\u254f\u2551\u2575\u2577\u2579\u257b\u257d\u257f"
)


def show_everywhere() -> None:
    """Have standard output and standard error replace what their coding lacks."""
    codecs.register_error(_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(sign: str) -> str:
    """One sign for one, as far as tables and bars are made of it; letters by their number."""
    number = ord(sign)
    if sign in _SIGNS:
        return _SIGNS[sign]
    if 0x2500 <= number < 0x2580:  # frames
        return "-" if sign in _HORIZONTAL else "|" if sign in _VERTICAL else "+"
    if 0x2580 <= number < 0x25A0:  # bars
        return "#"
    if 0x2800 <= number < 0x2900:  # spinners
        return "*"
    if 0xDC80 <= number < 0xDD00:  # a byte of a path that is no text in this locale
        return f"\\x{number - 0xDC00:02x}"
    return sign.encode("ascii", "backslashreplace").decode()
