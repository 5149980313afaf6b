"""A plan as a picture: who receives and sends what when, and what tokens wait meanwhile (SVG)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from migrations.explanation import token_latencies
from migrations.model import ORIGIN, Move, MoveKind, Plan
from migrations.naming import BY_INDEX, Names
from solvers.problem import PlacementProblem, UInt8

_WIDTH: Final = 1200.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 110.0, 24.0, 64.0, 24.0
_BAR, _GAP = 9.0, 7.0  # height of a bar; space between two nodes, each of which has two bars
_CURVE_HEIGHT: Final = 120.0
_SAMPLES: Final = 240
_GOLDEN: Final = 137.508  # degrees between the hues of two nodes, so that neighbours differ
_LABEL_WIDTH: Final = 16.0  # of a bar that has room for the number of the other node


def gantt_svg(problem: PlacementProblem, source_holds: UInt8, plan: Plan, names: Names = BY_INDEX) -> str:
    """A plan that is OK as an SVG document. O(moves), and `evaluate` some 200 times.

    Two rows per node, what it receives and what it sends, each copy in the colour of the other side; a tick
    per drop; a dashed line where the lower bound is; below, the mean latency of a token in one block.
    """
    copies = [move for move in plan.moves if move.kind is MoveKind.COPY]
    rows = [*range(problem.nodes), *([ORIGIN] if any(copy.source == ORIGIN for copy in copies) else [])]
    y = {node: _TOP + position * (2 * _BAR + _GAP) for position, node in enumerate(rows)}
    bottom = _TOP + len(rows) * (2 * _BAR + _GAP)
    seconds = plan.estimate.seconds or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / seconds
    height = bottom + 40 + _CURVE_HEIGHT + _BOTTOM
    total = f"{plan.estimate.bytes / 1e9:.3g} GB"
    bound = plan.estimate.lower_bound_seconds
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH:g}" height="{height:g}" '
        f'viewBox="0 0 {_WIDTH:g} {height:g}" font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{_WIDTH:g}" height="{height:g}" fill="#fff"/>',
        f'<text x="{_LEFT:g}" y="22" font-size="15" font-weight="600" fill="#1b1f24">{len(copies)} copies, '
        f"{len(plan.moves) - len(copies)} drops, {total} in {plan.estimate.seconds:.4g} s</text>",
        f'<text x="{_LEFT:g}" y="38" fill="#57606a">Per node: received above, sent below, each copy in the '
        f"colour of the node at its other end. A tick is a drop. Dashed: no schedule takes less than "
        f"{bound:.4g} s.</text>",
    ]
    parts += _axis(seconds, scale, _TOP - 4, bottom)
    for node in rows:
        label = escape(names.node(node))
        parts.append(
            f'<text x="{_LEFT - 8:g}" y="{y[node] + _BAR + 4:g}" text-anchor="end" fill="#1b1f24">'
            f'<tspan fill="{_colour(node)}">&#9632;</tspan> {label}</text>'
            f'<rect x="{_LEFT:g}" y="{y[node]:g}" width="{seconds * scale:.2f}" height="{2 * _BAR:g}" '
            f'fill="#f3f4f6"/>'
        )
    for copy in copies:
        if copy.source is not None:
            parts.append(_bar(copy, copy.source, y[copy.destination], scale))
            parts.append(_bar(copy, copy.destination, y[copy.source] + _BAR, scale))
    for move in plan.moves:
        if move.kind is MoveKind.DROP:
            x = _LEFT + move.start_seconds * scale
            top = y[move.destination] - 2
            parts.append(f'<path d="M{x:.2f} {top:g}v3" stroke="#1b1f24" stroke-width="0.8"/>')
    x = _LEFT + bound * scale
    parts.append(
        f'<path d="M{x:.2f} {_TOP - 4:g}V{bottom:g}" stroke="#cf222e" stroke-dasharray="4 3" fill="none"/>'
    )
    parts += _curve(problem, source_holds, plan, scale, bottom + 40)
    return "\n".join([*parts, "</svg>\n"])


def _bar(copy: Move, other: int, y: float, scale: float) -> str:
    x = _LEFT + copy.start_seconds * scale
    width = (copy.end_seconds - copy.start_seconds) * scale
    # A hairline between two copies, as long as there is room for one.
    shown = max(width - 0.6, 0.7 * width)
    bar = f'<rect x="{x:.2f}" y="{y:g}" width="{shown:.2f}" height="{_BAR - 1:g}" fill="{_colour(other)}"/>'
    if width < _LABEL_WIDTH:
        return bar
    word = "o" if other == ORIGIN else str(other)
    return (
        f'{bar}<text x="{x + width / 2:.2f}" y="{y + _BAR - 2:g}" font-size="7.5" text-anchor="middle" '
        f'fill="#fff">{word}</text>'
    )


def _colour(node: int) -> str:
    if node == ORIGIN:
        return "#6e7781"
    hue = node * _GOLDEN % 360
    return f"hsl({hue:.0f} 58% {(40, 50, 33)[node % 3]}%)"


def _ticks(highest: float, most: int = 10) -> Iterator[float]:
    """Round numbers from 0 to `highest`, `most` steps at most."""
    power = 10.0 ** math.floor(math.log10(highest / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if highest / (power * factor) <= most)
    for i in range(int(highest / step + 1e-9) + 1):
        yield i * step


def _axis(seconds: float, scale: float, top: float, bottom: float) -> Iterator[str]:
    for tick in _ticks(seconds):
        x = _LEFT + tick * scale
        yield (
            f'<path d="M{x:.2f} {top:g}V{bottom:g}" stroke="#d0d7de" fill="none"/>'
            f'<text x="{x:.2f}" y="{top - 4:g}" text-anchor="middle" fill="#57606a">{tick:g} s</text>'
        )


def _curve(
    problem: PlacementProblem, source_holds: UInt8, plan: Plan, scale: float, top: float
) -> Iterator[str]:
    moments, latencies = token_latencies(problem, source_holds, plan, _SAMPLES)
    milliseconds = [latency * 1e3 for latency in latencies.tolist()]
    highest = max((value for value in milliseconds if math.isfinite(value)), default=0.0)
    yield (
        f'<text x="{_LEFT:g}" y="{top - 10:g}" fill="#1b1f24" font-weight="600">Mean latency of a token in '
        f"one block, ms</text>"
    )
    if highest <= 0:
        return
    # From a little below the least, as the differences are what matters; the scale says so.
    least = min(milliseconds)
    floor = float(f"{max(0.0, least - 0.3 * max(highest - least, 0.05 * highest)):.2g}")
    floor = min(floor, least)
    height = _CURVE_HEIGHT / (highest - floor)
    for tick in _ticks(highest - floor, 5):
        y = top + _CURVE_HEIGHT - tick * height
        yield (
            f'<path d="M{_LEFT:g} {y:.2f}H{_WIDTH - _RIGHT:g}" stroke="#d0d7de" fill="none"/>'
            f'<text x="{_LEFT - 8:g}" y="{y + 4:.2f}" text-anchor="end" fill="#57606a">'
            f"{floor + tick:.4g}</text>"
        )
    points = " ".join(
        f"{_LEFT + at * scale:.2f},{top + _CURVE_HEIGHT - (min(value, highest) - floor) * height:.2f}"
        for at, value in zip(moments.tolist(), milliseconds, strict=True)
    )
    yield f'<polyline points="{points}" stroke="#0969da" stroke-width="2" fill="none"/>'
