"""EdgeRule: pictures of many sizes, whose sides are kept between two limits and are multiples of a stride."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.files.image_files import load_image, to_tensor

FIELDS = {"long", "short", "stride"}


@dataclass(frozen=True)
class EdgeRule:
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

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that a picture of this size is resized to."""
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
        """Whether a picture of this size may be drawn."""
        sides = (height, width)
        return all(side % self.stride == 0 and 0 < side <= self.long for side in sides)

    def resized(self, raw: Any) -> Tensor:
        """Any raw picture -> (3, H, W) in [0, 1], resized in 8 bits, bicubic with antialiasing. A float tensor that has
        its size already stays as it is."""
        if isinstance(raw, Tensor) and self._has_its_size(raw):
            return raw.detach().float()
        picture = load_image(raw, "RGB")
        height, width = self.size_for(picture.height, picture.width)
        return to_tensor(picture.resize((width, height), Image.Resampling.BICUBIC))

    def _has_its_size(self, image: Tensor) -> bool:
        """Whether a float tensor (C, H, W) need not be resized."""
        if image.ndim != 3 or not image.is_floating_point():
            return False
        height, width = image.shape[1:]
        return self.size_for(height, width) == (height, width)


def rule_of(image_size: Any) -> EdgeRule | None:
    """The rule that a config's `image_size` states, {"long": ..., "short": ..., "stride": ...}; None for sizes."""
    if not hasattr(image_size, "keys"):
        return None
    if set(image_size) != FIELDS:
        raise InputError(f"image_size: a rule has long, short and stride, got {', '.join(sorted(image_size))}")
    return EdgeRule(**image_size)
