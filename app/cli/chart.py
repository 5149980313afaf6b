"""The chart of `moeplace compare`: cost over the lower bound and time, one line per algorithm, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_ROW, _TOP, _LABELS, _PANEL, _SPACE, _NUMBERS = 26, 78, 150, 270, 40, 70
_INK, _FAINT, _COST, _TIME = "#1f2328", "#d0d7de", "#2563a8", "#b45309"


@dataclass(frozen=True)
class Bar:
    """One algorithm: its cost over the lower bound (None where unknown or infinite), and its seconds."""

    name: str
    ratio: float | None
    seconds: float


def comparison_chart(bars: Sequence[Bar], title: str) -> str:
    """An SVG document. Left, cost over bound from 1 on; right, seconds on a logarithmic scale."""
    left, right = _LABELS, _LABELS + _PANEL + _NUMBERS + _SPACE
    width, bottom = right + _PANEL + _NUMBERS, _TOP + _ROW * len(bars)
    ratios = [bar.ratio for bar in bars if bar.ratio is not None]
    excess = max([ratio - 1.0 for ratio in ratios] + [1e-3])
    low = math.floor(math.log10(max(1e-4, min((bar.seconds for bar in bars), default=1.0))))
    high = max(low + 1, math.ceil(math.log10(max(1e-4, max((bar.seconds for bar in bars), default=1.0)))))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 16}" '
        f'viewBox="0 0 {width} {bottom + 16}" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{bottom + 16}" fill="white"/>',
        _text(12, 24, title, size=15),
        _text(left, 48, "cost over the lower bound"),
        _text(right, 48, "seconds, logarithmic"),
    ]
    for i in range(5):
        x = left + _PANEL * i / 4
        parts += [_line(x, bottom), _text(x, 66, f"{1 + excess * i / 4:.4g}", "middle", 11)]
    for power in range(low, high + 1):
        x = right + _PANEL * (power - low) / (high - low)
        parts += [_line(x, bottom), _text(x, 66, f"{10.0**power:g}", "middle", 11)]
    for i, bar in enumerate(bars):
        y = _TOP + _ROW * i
        parts.append(_text(left - 10, y + 15, bar.name, "end"))
        if bar.ratio is None:
            parts.append(_text(left + 4, y + 15, "no bound"))
        else:
            length = _PANEL * (bar.ratio - 1.0) / excess
            parts.append(_bar(left, y, length, _COST))
            parts.append(_text(left + max(0.0, length) + 6, y + 15, f"{bar.ratio:.4f}"))
        length = _PANEL * (math.log10(max(bar.seconds, 10.0**low)) - low) / (high - low)
        parts.append(_bar(right, y, length, _TIME))
        parts.append(_text(right + length + 6, y + 15, f"{bar.seconds:.3g}"))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}">'
        f"{escape(words)}</text>"
    )


def _bar(x: float, y: float, length: float, colour: str) -> str:
    # a hair's breadth at least, so that the best is seen too
    return f'<rect x="{x:.1f}" y="{y + 4:.1f}" width="{max(1.5, length):.1f}" height="15" fill="{colour}"/>'


def _line(x: float, bottom: float) -> str:
    return f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{_FAINT}"/>'
