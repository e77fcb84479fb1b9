"""What a run's report holds beside the parts of every page (mot_gen.files.page): sheets of pictures, loss curves."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from PIL import Image

from mot_gen.files import page as html_page
from mot_gen.files.page import figure, page, picture
from mot_gen.files.pictures import enlarge, grid

__all__ = ["captioned", "curves", "page", "picture", "sheet", "table"]

COLOURS = ("#2a6fdb", "#d9822b", "#2e9e5b", "#a23db3")


def sheet(images: Sequence[Image.Image], columns: int, alt: str) -> str:
    """Many pictures as one."""
    return picture(grid(images, columns), alt)


def captioned(items: Sequence[tuple[Image.Image, str, bool]]) -> str:
    """Pictures with the captions that the model wrote; wrong ones in red."""
    return "".join(figure(enlarge(image.convert("RGB")), text, not right) for image, text, right in items)


def table(rows: Sequence[tuple[str, float | int | str, str]]) -> str:
    """(what, value, measured on) rows."""
    cells = [(html.escape(what), _number(value), f"<small>{html.escape(on)}</small>") for what, value, on in rows]
    return html_page.table(("figure", "value", "measured on"), cells, numbers=[1])


def _number(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], width: int = 700, height: int = 220) -> str:
    """An SVG of (x, y) lines, each scaled to its own range, with its first and last value named."""
    drawn = []
    for number, (name, points) in enumerate((n, p) for n, p in lines.items() if len(p) > 1):
        xs, ys = zip(*points)
        low, high = min(ys), max(ys)
        scale = (height - 30) / ((high - low) or 1)
        path = " ".join(
            f"{10 + (width - 20) * (x - xs[0]) / ((xs[-1] - xs[0]) or 1):.1f},{height - 10 - (y - low) * scale:.1f}"
            for x, y in points
        )
        colour = COLOURS[number % len(COLOURS)]
        drawn.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{path}"/>'
            f'<text x="{width - 12}" y="{16 + 18 * number}" text-anchor="end" fill="{colour}" font-size="13">'
            f"{html.escape(name)}: {ys[0]:.3f} to {ys[-1]:.3f}</text>"
        )
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="loss curves">{"".join(drawn)}</svg>'
