"""Line plots as SVG that need nothing beside them: Line, plot, on_white."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("#2a6fdb", "#d9822b", "#2e9e5b", "#a23db3", "#c2413b", "#1fa3a3", "#8a6d3b", "#6b6f76", "#b5a400", "#e0559b")
WIDTH, HEIGHT = 640, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44  # margins


@dataclass(frozen=True)
class Line:
    """points: (x, y). name: in the legend, where it is not empty. faint: thin and pale; dashed."""

    points: Sequence[tuple[float, float]]
    name: str = ""
    colour: str = COLOURS[0]
    faint: bool = False
    dashed: bool = False


def plot(
    lines: Sequence[Line],
    x: str,
    y: str,
    title: str = "",
    y_range: tuple[float, float] | None = None,
    legend: str = "right",
) -> str:
    """An SVG of lines over linear axes, with ticks, grid and a legend at the top, right or left. x and y say what the
    axes are. Points outside `y_range` are cut."""
    drawn = [line for line in lines if len(line.points) > 1]
    if not drawn:
        return ""
    xs = [point[0] for line in drawn for point in line.points]
    ys = [point[1] for line in drawn for point in line.points]
    x_ticks, y_ticks = ticks(min(0.0, min(xs)), max(xs)), ticks(*(y_range or (min(ys), max(ys))))
    place = _Axes(min(0.0, min(xs)), max(xs), *(y_range or (y_ticks[0], y_ticks[-1])))
    parts = [_grid(place, x_ticks, y_ticks, x, y), *(_polyline(line, place) for line in drawn), _legend(drawn, legend)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
        f'font-size="12" fill="currentColor" aria-label="{html.escape(title or y)}"><title>{html.escape(title or y)}'
        f'</title><clipPath id="inside"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>{"".join(parts)}</svg>'
    )


def on_white(svg: str) -> str:
    """A plot for a page whose colours are not known: dark on white."""
    head, tail = svg.split("<title>", 1)
    return f'{head.replace("currentColor", "#222")}<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><title>{tail}'


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least the last round number below `high`."""
    if high <= low:
        return [low, low + 1.0]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    first = math.floor(low / step + 1e-9)
    return [k * step for k in range(first, math.ceil(high / step - 1e-9) + 1)]


@dataclass(frozen=True)
class _Axes:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x_low) / (self.x_high - self.x_low or 1.0)
        up = (y - self.y_low) / (self.y_high - self.y_low or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _grid(place: _Axes, x_ticks: list[float], y_ticks: list[float], x: str, y: str) -> str:
    bottom, middle = HEIGHT - BOTTOM, LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts = []
    for value in (t for t in x_ticks if place.x_low <= t <= place.x_high):
        at, _ = place.at(value, place.y_low)
        parts.append(f'<path d="M{at:.1f} {TOP}V{bottom}" stroke="#8883"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{short(value)}</text>')
    for value in (t for t in y_ticks if place.y_low <= t <= place.y_high):
        _, at = place.at(place.x_low, value)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#8883"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{short(value)}</text>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x)}</text>')
    up = (TOP + bottom) / 2
    parts.append(f'<text transform="translate(14 {up}) rotate(-90)" text-anchor="middle">{html.escape(y)}</text>')
    return "".join(parts)


def _polyline(line: Line, place: _Axes) -> str:
    path = " ".join("{:.1f},{:.1f}".format(*place.at(*point)) for point in line.points)
    look = 'stroke-width="1" opacity="0.35"' if line.faint else 'stroke-width="1.8"'
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    return f'<polyline clip-path="url(#inside)" fill="none" stroke="{line.colour}" {look}{dash} points="{path}"/>'


def _legend(lines: Sequence[Line], side: str) -> str:
    named = [line for line in lines if line.name]
    at, anchor = (LEFT + 8, "start") if side == "left" else (WIDTH - RIGHT - 6, "end")
    return "".join(
        f'<text x="{at}" y="{TOP + 16 + 16 * row}" text-anchor="{anchor}" fill="{line.colour}">'
        f"{html.escape(line.name)}</text>"
        for row, line in enumerate(named)
    )


def short(value: float) -> str:
    """A tick's number: 0.25, 400, 1.2e12 as 1.2T."""
    for limit, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{letter}"
    return f"{value:.4g}"
