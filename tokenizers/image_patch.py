"""PatchImageTokenizer: the pixels themselves, in patches, as continuous tokens. Exact both ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.patches import patchify, unpatchify
from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_base import ImageTokenizer


# ModelMixin is named again because a pipeline looks for a component's loader among the names of its own module.
class PatchImageTokenizer(ImageTokenizer, ModelMixin):
    """(C, H, W) in [0, 1] <-> (n, p * p * C) in [-1, 1], n = (H / p) * (W / p), tokens row by row.

    image_size: one side, (height, width), or a list of such pairs; multiples of patch_size p. color_channels: 1 (grey)
    or 3 (RGB).
    """

    discrete = False  # its tokens are numbers

    @register_to_config
    def __init__(
        self,
        image_size: int | Sequence[int] | Sequence[Sequence[int]] = (32, 32),
        patch_size: int = 2,
        color_channels: int = 3,
        name: str = "image",
    ):
        super().__init__()
        if color_channels not in (1, 3):
            raise InputError(f"color_channels must be 1 (grey) or 3 (RGB), got {color_channels}")
        self.patch_size = patch_size
        self.set_sizes(image_size)
        # The only state: diffusers cannot load a model without any, and it says on which device the tokens are made.
        self.register_buffer("unit", torch.ones(()))

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches of a picture of this size; InputError where they do not fill it."""
        (height, width), patch_size = size, self.patch_size
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise InputError(f"patch_size {patch_size} must divide image_size {height} x {width}")
        return height // patch_size, width // patch_size

    @property
    def color_channels(self) -> int:
        return self.config.color_channels

    @property
    def modality(self) -> Modality:
        channels = self.config.patch_size**2 * self.color_channels
        return Modality(self.config.name, None, channels, bidirectional=True, objective="flow", position=self.position)

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, n, p * p * C)."""
        return patchify(pixels, self.config.patch_size)[0]

    def pixels(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, n, p * p * C) -> (B, C, H, W)."""
        return unpatchify(tokens, grid, self.config.patch_size)
