"""What every image tokenizer shares: ImageTokenizer, nearest_size.

A child declares `modality` and two maps between pixels and tokens; raw pictures, batches and spans are here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from mot_gen.errors import InputError, expect
from mot_gen.files.image_files import image_tensor, load_image
from mot_gen.sequence import Span
from mot_gen.sequence.moving import upload
from mot_gen.tokenizers.image_edges import SizeRule, drawn_size, rule_of
from mot_gen.tokenizers.image_sizes import as_text, size_pair, size_pairs
from mot_gen.tokenizers.pretrained import NetworkTokenizer
from mot_gen.tokenizers.span_ids import check_ids


def nearest_size(sizes: Sequence[tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """The size whose aspect ratio is nearest to a picture's; where several are, the one that is nearest in area."""

    def distance(size: tuple[int, int]) -> tuple[float, float]:
        ratio = abs(math.log(size[0] * width / (size[1] * height)))
        return round(ratio, 9), abs(math.log(size[0] * size[1] / (height * width)))

    return min(sizes, key=distance)


__all__ = ["ImageTokenizer", "nearest_size", "size_pair", "size_pairs"]


class ImageTokenizer(NetworkTokenizer):
    """Images of one size, or of several, <-> spans with a 2-D grid.

    A child's config has `name` (of its modality) and `image_size`, and it defines:
    - `modality -> Modality`, `color_channels -> int` (1 or 3);
    - `grid_of((height, width)) -> (rows, columns)`, or InputError for a size that does not fit; it ends its `__init__`
      with `self.set_sizes(image_size)`;
    - `tokens(pixels (B, C, H, W) in [-1, 1]) -> (B, n) ids or (B, n, D) latents`;
    - `pixels(tokens, grid) -> (B, C, H, W)`, about [-1, 1].

    grids: (height, width) -> (rows, columns), the usual size first. Of several sizes a picture is given the one nearest
    to it in aspect ratio; their modality has position "grid", so that the model sees where a row ends.
    """

    rule: SizeRule | None = None  # by which pictures are resized; `grids` then has the usual size alone

    def set_sizes(self, image_size: int | Sequence | Mapping[str, int]) -> None:
        """Sets `grids`; InputError for sizes that do not fit, or have one grid in common.

        image_size: one size, several, or the fields of a rule in `image_edges`."""
        self.rule = rule_of(image_size)
        if self.rule is not None:
            sizes = [self.rule.usual]
        else:
            assert not isinstance(image_size, Mapping)
            sizes = size_pairs(image_size)
        self.grids = {size: self.grid_of(size) for size in sizes}
        if len(set(self.grids.values())) < len(self.grids):
            raise InputError(f"image_size: {as_text(list(self.grids))} have the same grid; leave one of them out")

    @property
    def decodes(self) -> bool:
        """Whether pictures can be made of its tokens."""
        return True

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), the usual one of several."""
        return next(iter(self.grids))

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of every picture; None where there are several sizes."""
        one_size = len(self.grids) == 1 if self.rule is None else self.rule.fixed
        return self.grids[self.size] if one_size else None

    @property
    def position(self) -> str:
        """How the tokens of its modality stand, see `Modality`."""
        return "sequence" if self.grid else "grid"

    def size_for(self, image: Tensor | Image.Image) -> tuple[int, int]:
        """The (height, width) that a picture is cropped and resized to."""
        height, width = image.shape[1:] if isinstance(image, Tensor) else (image.height, image.width)
        if self.rule is not None:
            return self.rule.size_for(height, width)
        return nearest_size(list(self.grids), height, width)

    def size_of(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of a picture of this grid."""
        usual = self.grids[self.size]
        return grid[0] * self.size[0] // usual[0], grid[1] * self.size[1] // usual[1]

    def drawn_grid(self, height: int | None, width: int | None) -> tuple[int, int]:
        """The grid of a picture of this size, the first that fits where a side is left open; InputError where none
        is."""
        return self.grid_of(drawn_size(self.config.image_size, height, width))

    def pixels_of(self, raw) -> Tensor:
        """A PIL image, path, bytes or tensor as it will be seen: (C, H, W) in [0, 1], of one of the sizes."""
        if self.rule is not None:
            return self.rule.resized(raw)
        if self.grid:
            return image_tensor(raw, self.size, self.color_channels)
        picture = raw
        if not (isinstance(raw, Tensor) and raw.ndim == 3):
            mode = "L" if self.color_channels == 1 else "RGB"
            picture = load_image(raw, mode)
        return image_tensor(picture, self.size_for(picture), self.color_channels)

    def encode(self, raw) -> Span:
        """A PIL image, path, bytes or tensor (C, H, W), cropped to a size -> a span of rows * columns tokens."""
        return self.encode_batch([raw])[0]

    @torch.no_grad()
    def encode_batch(self, raws: Sequence) -> list[Span]:
        """Many raw images, those of one size in one pass of the network; the same spans as one by one, on the CPU."""
        pictures = [self.pixels_of(raw) for raw in raws]
        spans: dict[int, Span] = {}
        for size, places in _places_of([(picture.shape[1], picture.shape[2]) for picture in pictures]).items():
            grid = self.grids.get(size) or self.grid_of(size)
            pixels = upload(torch.stack([pictures[place] for place in places]), self.device)
            tokens = self.tokens((pixels * 2 - 1).to(self.dtype))
            if tokens.is_floating_point():
                tokens = tokens.float()
            tokens = tokens.cpu()
            for place, values in zip(places, tokens):
                spans[place] = Span(self.config.name, values, grid)
        return [spans[place] for place in range(len(pictures))]

    def decode(self, span: Span) -> Tensor:
        """A span -> float tensor (C, H, W) in [0, 1]; raises InputError for one that is not of this tokenizer."""
        return self.decode_batch([span])[0]

    @torch.no_grad()
    def decode_batch(self, spans: Sequence[Span]) -> list[Tensor]:
        """Many spans, those of one grid in one pass of the network; the same images as one by one."""
        images: dict[int, Tensor] = {}
        for grid, places in _places_of([self._checked(span) for span in spans]).items():
            tokens = upload(torch.stack([spans[place].values for place in places]), self.device)
            if tokens.is_floating_point():
                tokens = tokens.to(self.dtype)
            images |= zip(places, self.pixels(tokens, grid).float().add(1).div(2).clamp(0, 1))
        return [images[place] for place in range(len(spans))]

    def _checked(self, span: Span) -> tuple[int, int]:
        """The grid of a span of this tokenizer; InputError for any other."""
        name, modality = self.config.name, self.modality
        expect(isinstance(span, Span), f"{name}: decode takes a Span, as encode gives, or Span({name!r}, values)", span)
        rows, columns = span.grid or self.grids[self.size]
        if not self._has_grid((rows, columns)) or len(span) != rows * columns:
            expected = as_text(list(self.grids.values())).replace(", ", " or ")
            raise InputError(f"{name} span of {len(span)} tokens, grid {span.grid}; expected {expected}")
        if modality.discrete:
            check_ids(span, modality.vocab_size, name)
        elif span.values.shape[1:] != (modality.channels,):
            shape = tuple(span.values.shape)
            raise InputError(f"{name} span of shape {shape}; expected {modality.channels} channels a token")
        return rows, columns

    def _has_grid(self, grid: tuple[int, int]) -> bool:
        """Whether a picture can have this many rows and columns of tokens."""
        if self.rule is not None and self.rule.holds(grid, self.grids[self.size]):
            return True
        return grid in self.grids.values()


def _places_of(keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """The indices of each of these sizes or grids, in the order in which they first come."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places
