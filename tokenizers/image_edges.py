"""How published models bring pictures to their sizes: EdgeRule, AreaRule, SquareRule; SizeRule, what they have in
common; rule_of, which reads one from a config; and what a config's `image_size` says, by a rule or as sizes:
sizes_in_words, drawn_size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.files.image_files import load_image, to_tensor
from mot_gen.tokenizers.image_sizes import as_text, size_pairs


class SizeRule:
    """What a rule says. fixed: whether all pictures are of one size."""

    fixed: ClassVar[bool] = False

    @property
    def usual(self) -> tuple[int, int]:
        """The (height, width) of a picture of which nothing is known."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        """The sizes, for people."""
        raise NotImplementedError

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that a picture of this size is resized to."""
        raise NotImplementedError

    def allows(self, height: int, width: int) -> bool:
        """Whether a picture of this size may be drawn."""
        raise NotImplementedError

    def holds(self, grid: tuple[int, int], usual: tuple[int, int]) -> bool:
        """Whether a picture of this many tokens can be one of the rule's. usual: the grid of the usual size."""
        raise NotImplementedError

    def resized(self, raw: Any) -> Tensor:
        """Any raw picture -> (3, H, W) in [0, 1], resized in 8 bits, bicubic with antialiasing. A float tensor that has
        its size already stays as it is."""
        if isinstance(raw, Tensor) and self._has_its_size(raw):
            return raw.detach().float()
        return to_tensor(self._brought(load_image(raw, "RGB")))

    def _brought(self, picture: Image.Image) -> Image.Image:
        height, width = self.size_for(picture.height, picture.width)
        return picture.resize((width, height), Image.Resampling.BICUBIC)

    def _has_its_size(self, image: Tensor) -> bool:
        """Whether a float tensor (C, H, W) need not be resized."""
        if image.ndim != 3 or not image.is_floating_point():
            return False
        height, width = image.shape[1:]
        return self.size_for(height, width) == (height, width)


@dataclass(frozen=True)
class EdgeRule(SizeRule):
    """The greater side is at most `long`, the smaller at least `short` where `long` allows it, both multiples of
    `stride` (BAGEL's transforms). A picture keeps its shape but for the rounding to strides; nothing is cropped."""

    long: int
    short: int
    stride: int

    def __post_init__(self):
        if not 0 < self.stride <= self.short <= self.long or self.long % self.stride:
            raise InputError(
                f"image_size: long {self.long} must be a multiple of stride {self.stride}, and short {self.short} "
                "lie between them"
            )

    @property
    def usual(self) -> tuple[int, int]:
        return self.long, self.long

    @property
    def description(self) -> str:
        return f"sides of multiples of {self.stride}, up to {self.long}"

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        scale = min(self.long / max(height, width), 1.0)
        scale = max(scale, self.short / min(height, width))
        sides = self._scaled(height, scale), self._scaled(width, scale)
        if max(sides) > self.long:
            scale = self.long / max(sides)
            sides = self._scaled(sides[0], scale), self._scaled(sides[1], scale)
        return sides

    def _scaled(self, side: int, scale: float) -> int:
        """Rounded to even at one half, as the published code does it."""
        return max(self.stride, round(round(side * scale) / self.stride) * self.stride)

    def allows(self, height: int, width: int) -> bool:
        sides = (height, width)
        return all(side % self.stride == 0 and 0 < side <= self.long for side in sides)

    def holds(self, grid: tuple[int, int], usual: tuple[int, int]) -> bool:
        return grid[0] <= usual[0] and grid[1] <= usual[1]


@dataclass(frozen=True)
class AreaRule(SizeRule):
    """Sides are multiples of `stride`, and a picture has at least `least` pixels and at most `most` (Emu3, Qwen2-VL).
    A picture keeps its shape but for the rounding to strides. drawn: pixels of a picture of which nothing is said,
    `most` when not given."""

    least: int
    most: int
    stride: int
    drawn: int | None = None

    def __post_init__(self):
        if not (self.stride > 0 and self.stride**2 <= self.most and 0 < self.least <= self.most):
            raise InputError(
                f"image_size: least {self.least} and most {self.most} pixels must rise, and most hold a square of "
                f"stride {self.stride}"
            )

    @property
    def usual(self) -> tuple[int, int]:
        side = math.isqrt(min(self.drawn or self.most, self.most)) // self.stride * self.stride
        return side, side

    @property
    def description(self) -> str:
        return f"sides of multiples of {self.stride}, up to {self.most} pixels"

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        sides = round(height / self.stride) * self.stride, round(width / self.stride) * self.stride
        area = sides[0] * sides[1]
        if area > self.most:
            scale = math.sqrt(height * width / self.most)
            sides = self._floor(height / scale), self._floor(width / scale)
        elif area < self.least:
            scale = math.sqrt(self.least / (height * width))
            sides = self._ceil(height * scale), self._ceil(width * scale)
        return sides

    def _floor(self, side: float) -> int:
        return max(self.stride, math.floor(side / self.stride) * self.stride)

    def _ceil(self, side: float) -> int:
        return math.ceil(side / self.stride) * self.stride

    def allows(self, height: int, width: int) -> bool:
        strides = height % self.stride == 0 and width % self.stride == 0
        return strides and height > 0 and width > 0 and height * width <= self.most

    def holds(self, grid: tuple[int, int], usual: tuple[int, int]) -> bool:
        return self.allows(grid[0] * self.stride, grid[1] * self.stride)


@dataclass(frozen=True)
class SquareRule(SizeRule):
    """The greater side becomes `square`, the smaller is filled up on both sides with the colour `fill` (Janus).

    least: the smaller side is at least so long before it is filled up. rounds: whether its length is rounded, or cut
    off to a whole number (JanusFlow)."""

    fixed: ClassVar[bool] = True

    square: int
    fill: Sequence[int]
    least: int = 14
    rounds: bool = True

    def __post_init__(self):
        if self.square < 1 or len(self.fill) != 3:
            raise InputError(f"image_size: square {self.square} must be at least 1, and fill a colour of three numbers")

    @property
    def usual(self) -> tuple[int, int]:
        return self.square, self.square

    @property
    def description(self) -> str:
        return f"{self.square} x {self.square}, filled up where a picture is no square"

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        return self.usual

    def allows(self, height: int, width: int) -> bool:
        return (height, width) == self.usual

    def holds(self, grid: tuple[int, int], usual: tuple[int, int]) -> bool:
        return grid == usual

    def _brought(self, picture: Image.Image) -> Image.Image:
        scale = self.square / max(picture.size)
        whole = round if self.rounds else int
        width, height = (max(whole(side * scale), self.least) for side in picture.size)
        canvas = Image.new("RGB", (self.square, self.square), tuple(self.fill))
        place = (self.square - width) // 2, (self.square - height) // 2
        canvas.paste(picture.resize((width, height), Image.Resampling.BICUBIC), place)
        return canvas


RULES: tuple[Any, ...] = (EdgeRule, AreaRule, SquareRule)


def rule_of(image_size: Any) -> SizeRule | None:
    """The rule whose fields a config's `image_size` states; None for sizes."""
    if not hasattr(image_size, "keys"):
        return None
    for rule in RULES:
        names = [field.name for field in fields(rule)]
        if names[0] in image_size and {*image_size} <= {*names}:
            try:
                return rule(**image_size)
            except TypeError:
                break
    known = "; ".join(", ".join(field.name for field in fields(rule)) for rule in RULES)
    given = ", ".join(sorted(image_size))
    raise InputError(f"image_size: a rule has one of these sets of fields: {known}; got {given}")


def sizes_in_words(image_size: Any) -> str:
    """The sizes of pictures that a config states, for people."""
    rule = rule_of(image_size)
    return as_text(size_pairs(image_size)) if rule is None else rule.description


def drawn_size(image_size: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """The (height, width) of a picture that is asked for, the first that fits where a side is left open. InputError for
    one that is not drawn. image_size: what the config states."""
    for name, side in (("height", height), ("width", width)):
        fits = side is None or (isinstance(side, Integral) and side > 0)
        require(fits, f"{name} must be a positive number of pixels, got {side!r}")
    size = _drawn_size(image_size, height, width)
    if size is None:
        asked = f"{height or 'any'} x {width or 'any'}"
        raise InputError(f"height, width: this model draws {sizes_in_words(image_size)}, got {asked}")
    return size


def _drawn_size(image_size: Any, height: int | None, width: int | None) -> tuple[int, int] | None:
    rule, given = rule_of(image_size), height or width
    if rule is None:
        sizes = size_pairs(image_size)
        return next((size for size in sizes if height in (None, size[0]) and width in (None, size[1])), None)
    if given is None:
        return rule.usual
    size = (height or given, width or given)
    return size if rule.allows(*size) else None
