"""ImageFeatureTokenizer: pictures as the features of a vision transformer, which a model reads and never draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ModelMixin  # noqa: F401  a pipeline that is loaded looks for ModelMixin beside the class
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mot_gen.errors import InputError
from mot_gen.files.image_files import to_pil
from mot_gen.patches import patchify
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.image_base import ImageTokenizer
from mot_gen.tokenizers.image_edges import rule_of


class ImageFeatureTokenizer(ImageTokenizer):
    """(3, H, W) in [0, 1] -> (n, hidden): a SigLIP encoder over patches, in the resolution of the picture (NaViT).

    vision: fields of transformers' SiglipVisionConfig, of the layers that are used.
    side: the positions of a row, and of a column; a patch at (row, column) has the position side * row + column, so
    that a small picture uses a corner of the table.
    layout: further fields of the modality.
    first_size: an `EdgeRule` by which pictures are resized before they are resized by that of image_size.
    mean, std: of the colours in [0, 1]; the encoder is given them standardised.

    The norm after the last layer is kept.
    """

    discrete = False  # its tokens are numbers

    @register_to_config
    def __init__(
        self,
        vision: dict,
        image_size: int | Sequence[int] | Mapping[str, int],
        patch_size: int = 14,
        side: int = 70,
        layout: dict | None = None,
        name: str = "sight",
        first_size: dict | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ):
        super().__init__()
        from transformers import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipEncoder

        config = SiglipVisionConfig(**vision)
        config._attn_implementation = "sdpa"
        self.embed = nn.Linear(3 * patch_size**2, config.hidden_size)
        self.positions = nn.Parameter(torch.zeros(side * side, config.hidden_size))
        self.encoder = SiglipEncoder(config)  # type: ignore[arg-type]  # transformers itself gives it the vision part
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.set_sizes(image_size)

    def grid_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches of a picture of this size; InputError for more than the table has."""
        patch, side = self.config.patch_size, self.config.side
        rows, columns = size[0] // patch, size[1] // patch
        if size[0] % patch or size[1] % patch or max(rows, columns) > side:
            raise InputError(
                f"image_size {size[0]} x {size[1]}: sides must be multiples of {patch}, at most {patch * side}"
            )
        return rows, columns

    def pixels_of(self, raw: Any) -> Tensor:
        """A picture as it will be seen, (3, H, W) in [0, 1]; resized in 8 bits, each time."""
        first = rule_of(self.config.first_size)
        if first is not None:
            raw = to_pil(first.resized(raw))
        return super().pixels_of(raw)

    @property
    def decodes(self) -> bool:
        return False

    @property
    def color_channels(self) -> int:
        return 3

    @property
    def modality(self) -> Modality:
        hidden = self.positions.shape[1]
        fields: dict[str, Any] = {"bidirectional": True, "objective": "flow", "position": "grid", "input_only": True}
        return Modality(self.config.name, None, hidden, **(fields | (self.config.layout or {})))

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, n, hidden)."""
        patches, (rows, columns) = patchify(self._standardised(pixels), self.config.patch_size)
        place = torch.arange(rows * columns, device=pixels.device)
        position = self.positions[place // columns * self.config.side + place % columns]
        return self.norm(self.encoder(self.embed(patches) + position).last_hidden_state)

    def _standardised(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], which colours of mean and std 0.5 are already."""
        mean, std = self.config.mean, self.config.std
        if {*mean, *std} == {0.5}:
            return pixels
        shift, scale = torch.tensor([list(mean), list(std)], device=pixels.device, dtype=pixels.dtype)
        return (pixels / 2 + 0.5 - shift[:, None, None]) / scale[:, None, None]

    def decode_batch(self, spans: Sequence[Span]) -> list[Tensor]:
        raise InputError(f"{self.config.name}: features are read, and no picture can be made of them")
