"""Numbers for people: summary, histogram, table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def summary(values: Sequence[float]) -> dict[str, float]:
    """Count, sum and spread of some numbers; JSON-able, and empty of none."""
    if not len(values):
        return {}
    array = np.asarray(values)
    names = ("min", "5%", "median", "95%", "max")
    spread = np.quantile(array, (0, 0.05, 0.5, 0.95, 1), method="nearest")
    found = {name: value.item() for name, value in zip(names, spread)}
    return {"count": len(array), "sum": array.sum().item(), "mean": array.mean().item(), **found}


def histogram(values: Sequence[float], bins: int = 12, width: int = 40) -> list[str]:
    """A line a bin: its range, a bar, how many. The bins widen by a factor where the largest is far from the usual."""
    array = np.asarray(values)
    if not len(array):
        return []
    whole, low, high = array.dtype.kind in "iu", array.min(), array.max()
    spread = np.geomspace if low > 0 and high > 20 * np.median(array) else np.linspace
    edges = spread(low, high, bins + 1)
    if whole:
        edges = np.unique(np.append(np.floor(edges[:-1]), high + 1).astype(np.int64))
    counts, edges = np.histogram(array, edges)
    ranges = [_range(a, b, whole) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist())]
    left, right = max(map(len, ranges)), len(number(counts.max().item()))
    lines = []
    for text, count in zip(ranges, counts.tolist()):
        bar = "█" * round(width * count / counts.max())
        lines.append(f"{text:>{left}}  {number(count):>{right}}  {bar}".rstrip())
    return lines


def _range(low: float, high: float, whole: bool) -> str:
    """Of a bin: the upper edge is not in it, unless it is the last."""
    last = high - 1 if whole else high
    return number(low) if low == last else f"{number(low)} - {number(last)}"


def number(value: float) -> str:
    """As people write it: 12,345; 0.9731."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: Sequence[Sequence]) -> list[str]:
    """A line a row, in columns: the first to the left, the others, numbers as `number` writes them, to the right."""
    texts = []
    widths: list[int] = []
    for row in rows:
        cells = [cell if isinstance(cell, str) else number(cell) for cell in row]
        texts.append(cells)
        widths += [0] * (len(cells) - len(widths))
        for column, cell in enumerate(cells):
            widths[column] = max(widths[column], len(cell))
    return [_line(cells, widths) for cells in texts]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = cells
    aligned = [first.ljust(widths[0])]
    for cell, width in zip(others, widths[1:]):
        aligned.append(cell.rjust(width))
    return "  ".join(aligned)
