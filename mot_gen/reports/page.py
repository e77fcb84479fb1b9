"""What a run's report holds beside what every page has (mot_gen.files.page): sheet, captioned_grid, table, losses."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from mot_gen.files import page as html_page
from mot_gen.files.page import figure, page, picture
from mot_gen.files.pictures import enlarge, grid
from mot_gen.reports.curves import Curve, curve, entries, smoothed
from mot_gen.reports.plot import Line, colour, late, plot

__all__ = ["captioned_grid", "curves", "losses", "page", "picture", "sheet", "table"]


def sheet(images: Sequence[Image.Image], columns: int, alt: str) -> str:
    """Many pictures as one."""
    return picture(grid(images, columns), alt)


def captioned_grid(items: Sequence[tuple[Image.Image, str, bool]]) -> str:
    """Pictures with the captions that the model wrote; wrong ones in red."""
    return "".join(figure(enlarge(image.convert("RGB")), text, not right) for image, text, right in items)


def table(rows: Sequence[tuple[str, float | int | str, str]]) -> str:
    """(what, value, measured on) rows."""
    cells = [(html.escape(what), _number(value), f"<small>{html.escape(on)}</small>") for what, value, on in rows]
    return html_page.table(("figure", "value", "measured on"), cells, numbers=[1])


def _number(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))


def losses(folder: Path, modalities: Sequence[str]) -> str:
    """Plots of the training losses that a run has logged, by step."""
    lines = entries(folder)
    return curves({f"training loss of {modality}": curve(lines, modality) for modality in modalities})


def curves(lines: Mapping[str, Curve]) -> str:
    """A plot of each named curve by step: its points faintly, and smoothed."""
    drawn = []
    for number, (name, points) in enumerate(lines.items()):
        if points:
            own = colour(number)
            shown = [Line(points, colour=own, faint=True), Line(smoothed(points), "smoothed", own)]
            drawn.append(plot(shown, "step", name, y_range=late([points])))
    return "".join(drawn)
