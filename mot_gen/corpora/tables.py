"""Numbers for people: summary, histogram, table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, repeat, zip_longest

import numpy as np


def summary(values: Sequence[float]) -> dict[str, float]:
    """Count, sum and spread of some numbers; JSON-able, and empty of none."""
    if not len(values):
        return {}
    array = np.asarray(values)
    spread = np.quantile(array, (0, 0.05, 0.5, 0.95, 1), method="nearest")
    return {
        "count": len(array),
        "sum": array.sum().item(),
        "mean": array.mean().item(),
        **dict(zip(("min", "5%", "median", "95%", "max"), spread.tolist())),
    }


def histogram(values: Sequence[float], bins: int = 12, width: int = 40) -> list[str]:
    """A line a bin: its range, a bar, how many. The bins widen by a factor where the largest is far from the usual."""
    array = np.asarray(values)
    if not len(array):
        return []
    counts, edges = np.histogram(array, _edges(array, bins))
    whole = array.dtype.kind in "iu"
    ranges = [_range(*ends, whole) for ends in pairwise(edges.tolist())]
    left, right = max(map(len, ranges)), len(number(counts.max().item()))
    lines = []
    for text, held in zip(ranges, counts.tolist()):
        bar = "█" * round(width * held / counts.max())
        lines.append(f"{text:>{left}}  {number(held):>{right}}  {bar}".rstrip())
    return lines


def _edges(array: np.ndarray, bins: int) -> np.ndarray:
    """The edges of the bins; between whole numbers they are whole, and some bins may fall together."""
    low, high = array.min(), array.max()
    spreads = low > 0 and high > 20 * np.median(array)
    space = np.geomspace if spreads else np.linspace
    edges = space(low, high, bins + 1)
    if array.dtype.kind not in "iu":
        return edges
    return np.unique(np.append(np.floor(edges[:-1]), high + 1).astype(np.int64))


def _range(low: float, high: float, whole: bool) -> str:
    """The label of a bin. Its upper edge does not belong to it, unless it is the last."""
    last = high - int(whole)
    ends = [low] if low == last else [low, last]
    return " - ".join(map(number, ends))


def number(value: float) -> str:
    """A number as people write it: 12,345; 0.9731."""
    if isinstance(value, int):
        return f"{value:,}"
    form = ",.0f" if abs(value) >= 1000 else ".4g"
    return format(value, form)


def table(rows: Sequence[Sequence]) -> list[str]:
    """A line a row, in columns: the first to the left, the others, numbers as `number` writes them, to the right."""
    texts = [list(map(_text, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip_longest(*texts, fillvalue="")]
    sides = [str.ljust, *repeat(str.rjust, len(widths))]
    lines = []
    for cells in texts:
        aligned = map(lambda side, cell, width: side(cell, width), sides, cells, widths)
        lines.append("  ".join(aligned))
    return lines


def _text(cell: str | float) -> str:
    return cell if isinstance(cell, str) else number(cell)
