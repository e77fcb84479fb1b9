"""Values that a recipe leaves to the data and to the machine: settle.

Where a recipe says `auto`, the value is read when training begins: sizes and colours from the pictures, lengths and the
vocabulary from the captions, the precision from the processor, steps from `training.epochs`. All of them are shown, and
the run's recipe.yaml has them as numbers, so that a run which goes on has what it began with.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mot_gen.data.records import Pair, Sample, Splits
from mot_gen.errors import InputError, require
from mot_gen.files.image_files import load_image
from mot_gen.recipes.recipe import AUTO, IMAGE_KIND, IMAGE_TRAIN, Recipe, field_of, read_mapping, with_fields

LOOKED_AT = 200  # samples, spread over the training set
SMALL = 32  # the longest side of pictures whose pixels are modelled as they are
LARGE = 64  # the side of the pictures that an autoencoder is trained on
FAR_LONGER = 8  # times the usual text: then it is said that the longest ones make rows long, and steps slow
TOKENS = 64  # of a small picture, at most
SIDES = (3, 5, 6, 7)  # of patches, in pixels, where neither 2 nor 4 fits


@dataclass(frozen=True)
class DataSummary:
    """What some training samples are like.

    sizes: (height, width) of each picture.
    coloured: whether any is.
    text: the longest, in bytes.
    usual: how long nine texts of ten are at most, in bytes.
    words: how many different ones.
    """

    sizes: Sequence[tuple[int, int]]
    coloured: bool
    text: int
    usual: int
    words: int

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> DataSummary:
        """Look at some samples, spread evenly. A picture that cannot be read is passed over here, and counted in
        training."""
        pictures: list[Image.Image] = []
        texts: list[str] = []
        for sample in _spread(samples, LOOKED_AT):
            pictures += _pictures(sample)
            texts += _texts(sample)
        words: set[str] = set()
        for text in texts:
            words.update(text.split())
        lengths = sorted(map(_bytes_of, texts)) or [0]
        return cls(
            sizes=[(picture.height, picture.width) for picture in pictures],
            coloured=any(map(_has_colour, pictures)),
            text=lengths[-1],
            usual=lengths[9 * (len(lengths) - 1) // 10],
            words=len(words),
        )

    @property
    def channels(self) -> int:
        """The colour channels that the pictures need: 3, or 1 where all are grey."""
        return 3 if self.coloured else 1

    @property
    def size(self) -> tuple[int, int]:
        """The usual (height, width)."""
        tokens = "for tokens of pictures their tokenizer, tokenizers.image='{kind: KIND, path: FOLDER}'"
        give = f"give tokenizers.image.image_size, or {tokens}"
        require(self.sizes, f"data: no picture could be read, so its size cannot be; {give}")
        heights, widths = zip(*self.sizes)
        return int(statistics.median(heights)), int(statistics.median(widths))


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """About so many samples, at equal distances; all of them where there are no more."""
    stride = max(1, len(samples) // count)
    return [samples[number] for number in range(0, len(samples), stride)]


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _pictures(sample: Sample) -> list[Image.Image]:
    """A sample's pictures, without those that cannot be read."""
    found = []
    for part in sample.parts:
        if part.kind == "image":
            with suppress(InputError, TypeError):
                found.append(load_image(part.value, "RGB"))
    return found


def _texts(sample: Sample) -> Sequence[str]:
    """What may stand in one row: each caption of a pair, all texts of a document together."""
    if isinstance(sample, Pair):
        return sample.captions
    return ["".join(sample.texts)]


def _has_colour(picture: Image.Image) -> bool:
    red, green, blue = picture.split()
    return not red.tobytes() == green.tobytes() == blue.tobytes()


# ---------------------------------------------------------------- values


def settle(recipe: Recipe, splits: Splits, folder: Path, say: Callable[[str], None]) -> Recipe:
    """The recipe with a value in the place of every `auto`, each of which `say` shows to the user.

    folder: of the run; where it has been begun, its values are taken again.
    """
    if not recipe.auto:
        return recipe
    if recipe.data.source != "records":
        say(f"data.source: {recipe.data.source}; on pictures of your own: data.records=FILE")
    before = folder / "recipe.yaml"
    begun = read_mapping(before) if before.exists() else {}
    seen = DataSummary.of(splits.train)
    values: dict[str, Any] = {}
    for field in recipe.auto:
        kept = field_of(begun, field)
        if kept in (None, AUTO):
            kept = CHOICES[field](_DefaultsContext(recipe, seen, values))
        values[field] = kept
    values |= _training_of_pictures(recipe, values)
    for field, value in values.items():
        say(f"{field}: {value}")
    _warn_of_long(_DefaultsContext(recipe, seen, values), say)
    return with_fields(recipe, values)


def _warn_of_long(known: _DefaultsContext, say: Callable[[str], None]) -> None:
    """Say how much faster it would go without the few texts that are far longer than the others."""
    longest, usual = known.seen.text, known.seen.usual
    if "training.row_length" not in known.chosen or longest <= FAR_LONGER * max(1, usual):
        return
    told = f"the longest text has {longest:,} bytes, nine of ten at most {usual:,}"
    shorter = row_length(usual, known.size, known.patch)
    say(f"training.row_length: {told}; training.row_length={shorter} is faster and leaves longer ones out, by name")


@dataclass(frozen=True)
class _DefaultsContext:
    """What a value is chosen by: the recipe, what was seen of the data, and the values that were chosen before."""

    recipe: Recipe
    seen: DataSummary
    chosen: Mapping[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures, in pixels: what was chosen, else the first that the recipe states."""
        given = self.chosen.get("tokenizers.image.image_size")
        if not given:
            given = self.recipe.tokenizers["image"].options.get("image_size", SMALL)
        if isinstance(given, int):
            return given, given
        height, width = given if isinstance(given[0], int) else given[0]
        return height, width

    @property
    def kind(self) -> str:
        """Of the tokenizer of pictures."""
        return self.chosen.get(IMAGE_KIND) or self.recipe.tokenizers["image"].kind

    @property
    def patch(self) -> int:
        """The side of a token, in pixels."""
        if self.kind != "image_patch":
            return 8  # an autoencoder's 64 x 64 pixels are 8 x 8 tokens
        given = self.recipe.tokenizers["image"].options.get("patch_size")
        return self.chosen.get("tokenizers.image.patch_size") or given or patch_size(self.size)


# A recipe's field -> what chooses its value, by those before it.
CHOICES: Mapping[str, Callable[[_DefaultsContext], Any]] = {
    "tokenizers.text.vocab_size": lambda known: vocabulary(known.seen.words),
    "tokenizers.image.image_size": lambda known: list(picture_size(known.seen.size)),
    IMAGE_KIND: lambda known: _image_kind(known),
    "tokenizers.image.patch_size": lambda known: 2 if known.kind == "image_latent" else patch_size(known.size),
    "tokenizers.image.color_channels": lambda known: known.seen.channels,
    "training.row_length": lambda known: row_length(known.seen.text, known.size, known.patch),
    "training.precision": lambda known: precision(known.recipe.training.device),
}


def _image_kind(known: _DefaultsContext) -> str:
    """Pictures larger than SMALL are modelled in the latents of an autoencoder, unless patches of pixels are wanted."""
    asks_for_pixels = "tokenizers.image.patch_size" not in known.recipe.auto
    return "image_patch" if asks_for_pixels or max(known.size) <= SMALL else "image_latent"


def _training_of_pictures(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """How an autoencoder is trained, where the data chose something of the pictures' tokenizer and none is loaded.
    InputError where the recipe says how, and none is needed."""
    if not any(field.startswith("tokenizers.image.") for field in values):
        return {}
    image = recipe.tokenizers["image"]
    kind = values.get(IMAGE_KIND, image.kind)
    if kind == "image_latent" and image.path is None:
        return {IMAGE_TRAIN: image.train or {}}
    needless = kind == "image_patch" and image.train is not None
    remedy = f"leave it out, or say {IMAGE_KIND}=image_latent"
    require(not needless, f"{IMAGE_TRAIN}: these pictures are modelled as pixels, which need no training; {remedy}")
    return {}


def vocabulary(words: int) -> int:
    """Ids of text, at most: more where there are more words to be told apart."""
    if words < 200:
        return 512
    if words < 4000:
        return 2048
    return 8192


def picture_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that pictures of this usual size are brought to: their own, in steps of 4 pixels, up to SMALL;
    LARGE square beyond."""
    if max(size) > SMALL:
        return LARGE, LARGE
    height, width = (max(4, round(side / 4) * 4) for side in size)
    return height, width


def patch_size(size: tuple[int, int]) -> int:
    """Side of a patch: 2 or 4 pixels, else the least of SIDES that divides both sides of a picture and makes at most
    TOKENS patches of it; 4 where there is none."""
    height, width = size
    for side in (2, 4, *SIDES):
        if height % side == 0 == width % side and height // side * (width // side) <= TOKENS:
            return side
    return 4


def row_length(text: int, size: tuple[int, int], patch: int) -> int:
    """Slots of a row: two of the longest samples, in steps of 64. text: its bytes, at least one a token. patch: the
    side of a token of the picture, in pixels."""
    longest = text + size[0] // patch * (size[1] // patch) + 8
    return 64 * math.ceil(2 * longest / 64)


def precision(device: str) -> str:
    """`bf16` where the processor multiplies it faster than fp32: on GPUs, and on CPUs with instructions for it."""
    if device != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return "bf16"
    return "fp32"
