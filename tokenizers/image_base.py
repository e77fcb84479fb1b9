"""What every image tokenizer shares: ImageTokenizer.

A child declares `modality` and two maps between pixels and tokens; raw pictures, batches and spans are here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_files import image_tensor
from mot_gen.tokenizers.pretrained import NetworkTokenizer


def size_pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one side or a pair; raises InputError unless both are at least 1."""
    pair = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(pair) != 2 or min(pair) < 1:
        raise InputError(f"image_size must be one side or (height, width), each at least 1, got {image_size!r}")
    return pair


class ImageTokenizer(NetworkTokenizer):
    """Images of one size <-> spans with a 2-D grid.

    A child's config has `name` (of its modality) and `image_size`, and it defines:
    - `modality -> Modality`, `color_channels -> int` (1 or 3), `grid -> (rows, columns)`;
    - `tokens(pixels (B, C, H, W) in [-1, 1]) -> (B, n) ids or (B, n, D) latents`;
    - `pixels(tokens) -> (B, C, H, W)`, about [-1, 1].
    """

    def encode(self, raw) -> Span:
        """A PIL image, path, bytes or tensor (C, H, W), cropped to image_size -> a span of rows * columns tokens."""
        return self.encode_batch([raw])[0]

    @torch.no_grad()
    def encode_batch(self, raws: Sequence) -> list[Span]:
        """Many raw images in one pass of the network; the same spans as one by one."""
        if len(raws) == 0:
            return []
        size = size_pair(self.config.image_size)
        pixels = torch.stack([image_tensor(raw, size, self.color_channels).to(self.device) for raw in raws])
        tokens = self.tokens((pixels * 2 - 1).to(self.dtype))
        tokens = tokens.float() if tokens.is_floating_point() else tokens
        return [Span(self.config.name, values, self.grid) for values in tokens]

    def decode(self, span: Span) -> Tensor:
        """A span -> float tensor (C, H, W) in [0, 1]; raises InputError for one that is not of this tokenizer."""
        return self.decode_batch([span])[0]

    @torch.no_grad()
    def decode_batch(self, spans: Sequence[Span]) -> list[Tensor]:
        """Many spans in one pass of the network; the same images as one by one."""
        if len(spans) == 0:
            return []
        for span in spans:
            self._check(span)
        tokens = torch.stack([span.values.to(self.device) for span in spans])
        tokens = tokens.to(self.dtype) if tokens.is_floating_point() else tokens
        return list(self.pixels(tokens).float().add(1).div(2).clamp(0, 1))

    def _check(self, span: Span) -> None:
        name, modality, (rows, columns) = self.config.name, self.modality, self.grid
        if len(span) != rows * columns or tuple(span.grid or self.grid) != (rows, columns):
            raise InputError(f"{name} span of {len(span)} tokens, grid {span.grid}; expected {rows} x {columns}")
        if modality.discrete:
            low, high = span.values.min().item(), span.values.max().item()
            if low < 0 or high >= modality.vocab_size:
                raise InputError(f"{name} ids {low} to {high} lie outside 0 to {modality.vocab_size - 1}")
        elif span.values.shape[1:] != (modality.channels,):
            shape = tuple(span.values.shape)
            raise InputError(f"{name} span of shape {shape}; expected {modality.channels} channels a token")
