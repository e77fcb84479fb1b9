"""Line plots as SVG that need nothing beside them: Line, plot, on_white; and which part of a curve to show: late."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

COLOURS = ("#2a6fdb", "#d9822b", "#2e9e5b", "#a23db3", "#c2413b", "#1fa3a3", "#8a6d3b", "#6b6f76", "#b5a400", "#e0559b")
WIDTH, HEIGHT = 640, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44  # margins
LETTERS = ((1e15, 1e15, "P"), (1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
Range = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """points: (x, y).
    name: in the legend, where it is not empty.
    faint: whether it is thin and pale. dashed: whether it is dashed.
    dots: a mark at every point, so that a line of one point is seen too.
    """

    points: Sequence[tuple[float, float]]
    name: str = ""
    colour: str = COLOURS[0]
    faint: bool = False
    dashed: bool = False
    dots: bool = False

    @property
    def seen(self) -> bool:
        """Whether there is something to draw."""
        return len(self.points) > 1 or (self.dots and len(self.points) == 1)


def colour(number: int) -> str:
    """The colour of the line with this number."""
    return COLOURS[number % len(COLOURS)]


def plot(
    lines: Sequence[Line],
    x: str,
    y: str,
    title: str = "",
    y_range: Range | None = None,
    legend: str = "right",
    log_x: bool = False,
) -> str:
    """An SVG of lines, with ticks, grid and a legend: at the top right, "left", or at the bottom right ("below"). x and
    y say what the axes are. Points outside `y_range` are cut. log_x: powers of two lie equally far apart."""
    drawn = [line for line in lines if line.seen]
    if not drawn:
        return ""
    xs, ys = zip(*chain.from_iterable(line.points for line in drawn))
    across = _log_axis(xs) if log_x else _axis(min(0.0, *xs), max(xs), (LEFT, WIDTH - RIGHT))
    low, high = y_range or _round(min(ys), max(ys))
    up = _axis(low, high, (HEIGHT - BOTTOM, TOP))
    parts = [_grid(across, up), _names(x, y)]
    parts += [_shape(line, across, up) for line in drawn]
    parts.append(_legend(drawn, legend))
    label = html.escape(title or y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
        f'font-size="12" fill="currentColor" aria-label="{label}"><title>{label}</title>'
        f'<clipPath id="inside"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>{"".join(parts)}</svg>'
    )


def on_white(svg: str) -> str:
    """A plot for a page whose colours are not known: dark on white."""
    head, tail = svg.split("<title>", 1)
    return f'{head.replace("currentColor", "#222")}<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><title>{tail}'


def late(curves: Sequence[Sequence[tuple[float, float]]]) -> Range | None:
    """The range of losses past the first eighth of every curve, with a margin: the first ones are so large that nothing
    else could be seen. None where there are no points."""
    losses = [y for points in curves for _, y in points[len(points) // 8 :]]
    if not losses:
        return None
    margin = 0.05 * (max(losses) - min(losses))
    return min(losses) - margin, max(losses) + margin


def short(value: float) -> str:
    """A tick's number: 0.25, 400, 1.2e12 as 1.2T."""
    for limit, unit, letter in LETTERS:
        if abs(value) >= limit:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"


# ---------------------------------------------------------------- axes


@dataclass(frozen=True)
class _Axis:
    """Values from low to high, over pixels from start to end. ticks: where the grid is. log: values are drawn by their
    logarithms."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low or 1.0)
        return self.start + share * (self.end - self.start)


def _axis(low: float, high: float, pixels: Range) -> _Axis:
    inside = [tick for tick in ticks(low, high) if low <= tick <= high]
    return _Axis(low, high, *pixels, inside)


def _log_axis(values: Sequence[float]) -> _Axis:
    """An axis from half of the least value to twice the largest, with ticks at powers of two."""
    low, high = min(values) / 1.5, max(values) * 1.5
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    return _Axis(low, high, LEFT, WIDTH - RIGHT, [2.0**k for k in range(first, last + 1)], log=True)


def _round(low: float, high: float) -> Range:
    """Both as ticks."""
    found = ticks(low, high)
    return found[0], found[-1]


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from at most `low` to at least the last round number below `high`."""
    if high <= low:
        return [low, low + 1.0]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    first = math.floor(low / step + 1e-9)
    return [k * step for k in range(first, math.ceil(high / step - 1e-9) + 1)]


# ---------------------------------------------------------------- parts of a plot


def _grid(across: _Axis, up: _Axis) -> str:
    bottom, parts = HEIGHT - BOTTOM, []
    for value in across.ticks:
        at = across.at(value)
        parts.append(f'<path d="M{at:.1f} {TOP}V{bottom}" stroke="#8883"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{short(value)}</text>')
    for value in up.ticks:
        at = up.at(value)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#8883"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{short(value)}</text>')
    return "".join(parts)


def _names(x: str, y: str) -> str:
    """What the axes are."""
    middle, up = LEFT + (WIDTH - LEFT - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x)}</text>'
        f'<text transform="translate(14 {up}) rotate(-90)" text-anchor="middle">{html.escape(y)}</text>'
    )


def _shape(line: Line, across: _Axis, up: _Axis) -> str:
    places = [(across.at(x), up.at(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    look = 'stroke-width="1" opacity="0.35"' if line.faint else 'stroke-width="1.8"'
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    drawn = [f'<polyline clip-path="url(#inside)" fill="none" stroke="{line.colour}" {look}{dash} points="{path}"/>']
    if line.dots:
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in places]
    return "".join(drawn)


def _legend(lines: Sequence[Line], side: str) -> str:
    named = [line for line in lines if line.name]
    at, anchor = (LEFT + 8, "start") if side == "left" else (WIDTH - RIGHT - 6, "end")
    top = HEIGHT - BOTTOM - 16 * len(named) - 12 if side == "below" else TOP
    rows = []
    for row, line in enumerate(named, 1):
        look = f'text-anchor="{anchor}" fill="{line.colour}"'
        rows.append(f'<text x="{at}" y="{top + 16 * row}" {look}>{html.escape(line.name)}</text>')
    return "".join(rows)
