"""Figures over seeds, and how they are written: spread, over, mean_and_sd, millions; text_table, html_table."""

from __future__ import annotations

import html
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mot_gen.files import page as html_page

Item = TypeVar("Item")


def spread(values: Sequence[float]) -> dict:
    """mean, and sd (None of a single value), over seeds."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": list(values)}


def over(items: Iterable[Item], figure: Callable[[Item], float]) -> dict:
    """The spread of a figure over runs, or over what they left."""
    return spread(list(map(figure, items)))


def mean_and_sd(figure: dict | None, digits: int = 3) -> str:
    """mean ± sd, or a dash."""
    if figure is None:
        return "-"
    mean = f"{figure['mean']:.{digits}f}"
    return mean if figure["sd"] is None else f"{mean} ± {figure['sd']:.{digits}f}"


def millions(count: int) -> str:
    """A number of parameters: 1.44M, 144M."""
    digits = 2 if count < 1e8 else 0
    return f"{count / 1e6:.{digits}f}M"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of aligned columns, the first to the left, numbers to the right."""
    columns = []
    for number, cells in enumerate(zip(*rows)):
        width = max(map(len, cells))
        justified = str.rjust if number else str.ljust
        columns.append([justified(cell, width) for cell in cells])
    return "\n".join(map("  ".join, zip(*columns)))


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """The same as HTML, which scrolls where it is too wide."""
    header, *body = rows
    cells = [[html.escape(cell) for cell in row] for row in body]
    table = html_page.table(header, cells, numbers=range(1, len(header)))
    return f"<div style='overflow-x:auto;white-space:nowrap'>{table}</div>"
