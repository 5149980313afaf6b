"""The picture of a run: latency of each placement, measured and predicted, and the time line of a swap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from lab.fleet.report import Report, Row, TimeLine

_WIDTH = 820
_LEFT, _RIGHT = 140, 40
_ROW = 30
_PLOT = 220
_INK, _FAINT = "#1f2328", "#d0d7de"
_EXPERTS, _REST, _PREDICTED = "#2563a8", "#9dbfe3", "#b45309"
_STAYING, _FOLLOWING = "#b45309", "#2563a8"


def picture(report: Report) -> str:
    """An SVG document."""
    parts: list[str] = []
    bottom = _bars(parts, report.rows, 30)
    if report.time_line is not None:
        bottom = _lines(parts, report.time_line, bottom + 40)
    for line in report.imposed:
        bottom += 20
        for piece in _wrapped(line):
            parts.append(_text(12, bottom, piece, size=11))
            bottom += 15
        bottom -= 15
    height = bottom + 16
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">'
    )
    title = "moeplace fleet: what placements are worth, measured"
    return "\n".join(
        [
            head,
            f"<title>{escape(title)}</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _bars(parts: list[str], rows: Sequence[Row], top: int) -> int:
    """Each placement as a bar; where the drawing ends."""
    parts.append(_text(12, top, "Latency per generated token, ms", size=15))
    parts += _legend(
        top + 22,
        (
            (_EXPERTS, "measured: waiting for experts"),
            (_REST, "measured: the rest"),
            (_PREDICTED, "predicted wait"),
        ),
    )
    begin = top + 40
    longest = max(max(row.figures.token_seconds, row.predicted_seconds) for row in rows)
    scale = (_WIDTH - _LEFT - _RIGHT - 60) / longest
    for index, row in enumerate(rows):
        y = begin + _ROW * index
        experts, whole = row.figures.expert_seconds * scale, row.figures.token_seconds * scale
        predicted = _LEFT + row.predicted_seconds * scale
        parts += [
            _text(_LEFT - 10, y + 17, row.algorithm, "end"),
            _rect(_LEFT, y + 5, experts, 17, _EXPERTS),
            _rect(_LEFT + experts, y + 5, whole - experts, 17, _REST),
            f'<line x1="{predicted:.1f}" y1="{y + 1}" x2="{predicted:.1f}" y2="{y + 26}" '
            f'stroke="{_PREDICTED}" stroke-width="3"/>',
            _text(max(_LEFT + whole, predicted) + 8, y + 18, f"{1e3 * row.figures.token_seconds:.0f}"),
        ]
    return begin + _ROW * len(rows)


def _lines(parts: list[str], line: TimeLine, top: int) -> int:
    """Both episodes over time; where the drawing ends."""
    parts.append(_text(12, top, "Latency per token while two nodes swap their domains, ms", size=15))
    parts += _legend(
        top + 22, ((_STAYING, "without migration"), (_FOLLOWING, "with migration: the service follows"))
    )
    begin, end = top + 40, top + 40 + _PLOT
    steps = [*line.staying.steps, *line.following.steps]
    last = line.seconds
    high = _ceiling(1e3 * max((step.token_seconds for step in steps), default=1.0))
    width = _WIDTH - _LEFT - _RIGHT

    def x(seconds: float) -> float:
        return _LEFT + width * seconds / last

    def y(milliseconds: float) -> float:
        return end - _PLOT * milliseconds / high

    for part in range(5):
        value = high * part / 4
        parts += [
            f'<line x1="{_LEFT}" y1="{y(value):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(value):.1f}" '
            f'stroke="{_FAINT}"/>',
            _text(_LEFT - 10, y(value) + 4, f"{value:.0f}", "end", 11),
        ]
    for second in range(0, int(last) + 1, 10):
        parts.append(_text(x(second), end + 16, f"{second} s", "middle", 11))
    swap = x(line.swap_seconds)
    parts += [
        f'<line x1="{swap:.1f}" y1="{begin}" x2="{swap:.1f}" y2="{end}" stroke="{_INK}" '
        'stroke-dasharray="4 3"/>',
        _text(swap + 5, begin + 12, f"{' and '.join(line.swapped)} swap", size=11),
    ]
    for colour, episode in ((_STAYING, line.staying), (_FOLLOWING, line.following)):
        points = " ".join(
            f"{x(step.at_seconds + line.step_seconds / 2):.1f},{y(1e3 * step.token_seconds):.1f}"
            for step in episode.steps
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return end + 24


def _ceiling(value: float) -> float:
    """The next number of one digit that is fit for four parts."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)


def _legend(y: int, entries: Sequence[tuple[str, str]]) -> list[str]:
    parts, x = [], _LEFT
    for colour, words in entries:
        parts += [_rect(x, y - 10, 12, 12, colour), _text(x + 17, y, words, size=12)]
        x += 34 + 7 * len(words)
    return parts


def _wrapped(line: str, width: int = 130) -> list[str]:
    lines = [""]
    for word in line.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}">'
        f"{escape(words)}</text>"
    )
