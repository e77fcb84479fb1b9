"""Pictures for people: enlarge, grid, save_png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mot_gen.files.atomic import writing


def enlarge(image: Image.Image, side: int = 96) -> Image.Image:
    """Smoothly, to at least `side` pixels on the longer side; a picture that is larger is left as it is."""
    factor = side / max(image.size)
    if factor <= 1:
        return image
    width, height = image.size
    return image.resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)


def grid(images: Sequence[Image.Image], columns: int, side: int = 96, gap: int = 4) -> Image.Image:
    """Pictures row by row on white, each enlarged to `side`. Fewer than `columns` fill one row and no more."""
    columns = min(columns, len(images))
    cells = [enlarge(image.convert("RGB"), side) for image in images]
    widths, heights = zip(*(cell.size for cell in cells))
    across, down = max(widths) + gap, max(heights) + gap
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * across - gap, rows * down - gap), "white")
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(cell, (column * across, row * down))
    return sheet


def save_png(image: Image.Image, path: Path, about: Mapping[str, object] | None = None) -> None:
    """Write a PNG, whole or not at all, with what made it (prompt, seed, settings) as text chunks inside."""
    info = PngInfo()
    texts = about or {}
    for key, value in texts.items():
        info.add_itxt(key, str(value))
    with writing(path) as part:
        image.save(part, format="PNG", pnginfo=info)
