"""Handwritten digits with captions: scikit-learn's 1,797 images of 8x8, as pairs. Nothing is downloaded.

`load` gives the stratified splits; `captions_of` all phrasings of a digit and `digit_in_caption` their inverse, which
scores a written caption by exact match; `task` is both, for the quickstart; `to_image` and `to_levels` convert between
the set's 17 grey levels and images.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from mot_gen.data.records import Pair, Splits
from mot_gen.datasets.task import Task

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASINGS = (
    "a handwritten {word}",
    "the digit {word}",
    "{digit}, written by hand",
    "a handwritten {digit}",
    "the number {word} in handwriting",
    "the figure {digit}, drawn with a pen",
)
LEVELS = 16  # the whitest of the grey levels 0 ... 16


def captions_of(digit: int) -> tuple[str, ...]:
    """Every phrasing of a digit."""
    return tuple(phrasing.format(word=WORDS[digit], digit=digit) for phrasing in PHRASINGS)


@cache
def _digits_by_caption() -> dict[str, int]:
    return {caption: digit for digit in range(10) for caption in captions_of(digit)}


def digit_in_caption(text: str) -> int | None:
    """The digit of which `text` is one of the phrasings, word for word; None if it is none of any digit."""
    return _digits_by_caption().get(text.strip())


def to_image(levels: np.ndarray) -> Image.Image:
    """(8, 8) levels 0 ... 16 -> an 8-bit grey image; `to_levels` is its exact inverse."""
    return Image.fromarray(np.round(levels * (255 / LEVELS)).astype(np.uint8))


def to_levels(image: Image.Image) -> np.ndarray:
    """An 8-bit grey image -> (H, W) int levels 0 ... 16."""
    return np.round(np.asarray(image.convert("L")) * (LEVELS / 255)).astype(np.int64)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """(N, 8, 8) grey levels and (N,) digits. The file that scikit-learn carries is read directly, since importing
    scikit-learn takes longer; it is imported where the file is somewhere else."""
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package and package.origin else None
    if file is None or not file.is_file():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images, digits.target
    table = np.loadtxt(file, delimiter=",")  # as load_digits reads it: 64 levels and the digit in each row
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)


def load(data) -> Splits:
    """All digits; `data.held_out` of each class is set aside, the choice fixed by `data.split_seed`."""
    levels, labels = _digits()
    generator = np.random.default_rng(data.split_seed)
    held_out: set[int] = set()
    for digit in range(10):
        members = generator.permutation(np.flatnonzero(labels == digit))
        held_out.update(members[: round(len(members) * data.held_out)].tolist())
    learned: list[Pair] = []
    aside: list[Pair] = []
    for number, (picture, digit) in enumerate(zip(levels, labels)):
        pair = Pair(f"digits/{number}", to_image(picture), captions_of(int(digit)))
        side = aside if number in held_out else learned
        side.append(pair)
    return Splits(learned, aside)


def task() -> Task:
    """The ten digits, to judge generated images and captions by."""
    return Task(WORDS, captions_of, digit_in_caption, "handwritten digits")
