"""PatchUNet: patch layers that are a U-Net around the backbone, as Transfusion's (arXiv 2408.11039, section 3.2).

Shapes: N tokens of n spans, C channels of a token, D width of the backbone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.modality_layers.embeddings import TimeEmbedding, by_grid, weights_in
from mot_gen.backbone.modality_layers.span_times import condition, condition_flops, on_grid
from mot_gen.errors import InputError
from mot_gen.patches import patchify, unpatchify
from mot_gen.sequence import Latents, Modality


class PatchUNet(nn.Module):
    """A U-Net whose middle block is the backbone: diffusers' down and up blocks around it, with skips (Transfusion).

    The values are unpatched to the picture of latents that they are patches of, and one down block a halving brings it
    to the grid of tokens; the up blocks bring the backbone's output back. width: channels at full resolution, doubled
    at each halving. layers: residual blocks a level.
    """

    def __init__(
        self,
        dim: int,
        modality: Modality,
        patch_size: int = 2,
        width: int = 128,
        layers: int = 1,
        takes_step: bool = False,
    ):
        super().__init__()
        assert modality.channels is not None
        levels = patch_size.bit_length() - 1  # below full resolution
        if patch_size != 2**levels or modality.channels % patch_size**2 or width % 8:
            raise InputError(
                f"patch_layers.{modality.name}: patch_size {patch_size} must be a power of two whose square divides "
                f"the {modality.channels} channels, and width {width} a multiple of 8"
            )
        self.patch_size, self.on_grid = patch_size, modality.position == "grid"
        channels = modality.channels // patch_size**2
        widths = [width * 2**level for level in range(levels + 1)]
        common: dict[str, Any] = {"temb_channels": dim, "num_layers": layers, "resnet_groups": 8}
        self.time = TimeEmbedding(dim)
        self.step = TimeEmbedding(dim) if takes_step else None
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.down = _down_blocks(widths, common)
        self.proj_in = nn.Linear(widths[-1], dim)
        self.proj_out = nn.Linear(dim, widths[-1])
        self.up = _up_blocks(widths, {**common, "num_layers": layers + 1})
        self.norm_out = nn.GroupNorm(8, width)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def flops(self, latents: Latents) -> int:
        """A convolution of W weights over P pixels takes 2 W P, and each finer level has 4 times the pixels."""
        tokens, spans = len(latents.values), len(latents.learned)
        finest = len(self.down) - 1
        pixels = [tokens * 4 ** (finest - level) for level in range(finest + 1)]
        products = tokens * (weights_in(self.proj_in) + weights_in(self.proj_out))
        products += pixels[0] * (weights_in(self.conv_in) + weights_in(self.conv_out))
        for level, block in self._levels():
            timed = sum(weights_in(resnet.time_emb_proj) for resnet in block.resnets)
            products += spans * timed + pixels[level] * (sum(map(weights_in, block.resnets)) - timed)
            for layer in getattr(block, "downsamplers", None) or ():
                products += pixels[level + 1] * weights_in(layer)
            for layer in getattr(block, "upsamplers", None) or ():
                products += pixels[level - 1] * weights_in(layer)
        return 2 * products + condition_flops(self, latents)

    def _levels(self) -> Iterator[tuple[int, Any]]:
        """Each block with its level, 0 at full resolution: the way down, then up."""
        yield from enumerate(self.down)
        yield from zip(reversed(range(len(self.up))), self.up)

    def activations(self, latents: Latents) -> int:
        """A residual block keeps the inputs of its norms, activations and convolutions, 6 a pixel and channel."""
        tokens, finest, kept = len(latents.values), len(self.down) - 1, 0
        for level, block in self._levels():
            channels = sum(3 * r.conv1.in_channels + 3 * r.conv2.in_channels for r in block.resnets)
            kept += tokens * 4 ** (finest - level) * channels
        return kept + tokens * (self.proj_in.in_features + self.proj_out.in_features)

    def encode(self, latents: Latents) -> tuple[Tensor, list]:
        """Tokens (N, D), and of each grid the embedded times and the skips."""
        time = condition(self, latents).expand(len(latents.learned), -1)
        values = latents.values.to(self.proj_in.weight.dtype)
        tokens = values.new_zeros(len(values), self.proj_in.out_features)
        memory = []
        for grid, spans, slots in by_grid(latents):
            temb = time[spans]
            picture = unpatchify(values[slots].unflatten(0, (len(spans), grid[0] * grid[1])), grid, self.patch_size)
            x = self.conv_in(picture)
            skips = [x]
            for block in self.down:
                x, kept = block(x, temb)
                skips.extend(kept)
            memory.append((temb, skips))
            tokens = tokens.index_copy(0, slots, self.proj_in(patchify(x, 1)[0].flatten(0, 1)).to(tokens.dtype))
        tokens = tokens + latents.per_token(time)
        if self.on_grid:
            tokens = tokens + on_grid(latents, tokens)
        return tokens, memory

    def decode(self, hidden: Tensor, latents: Latents, memory: list) -> Tensor:
        """hidden (N, D), with what `encode` remembered -> (N, C)."""
        up: list[Any] = list(self.up)
        values = hidden.new_zeros(len(hidden), latents.values.shape[1])
        for (grid, spans, slots), (temb, skips) in zip(by_grid(latents), memory):
            x = unpatchify(self.proj_out(hidden[slots]).unflatten(0, (len(spans), grid[0] * grid[1])), grid, 1)
            skips = list(skips)
            for block in up:
                mine = len(block.resnets)
                x = block(x, tuple(skips[-mine:]), temb)
                del skips[-mine:]
            picture = self.conv_out(F.silu(self.norm_out(x)))
            values = values.index_copy(0, slots, patchify(picture, self.patch_size)[0].flatten(0, 1).to(values.dtype))
        return values


def _down_blocks(widths: Sequence[int], options: Mapping[str, Any]) -> nn.ModuleList:
    """A block a level, each but the last of which halves the picture. widths: channels, from full resolution down."""
    from diffusers.models.unets.unet_2d_blocks import DownBlock2D

    blocks, last = nn.ModuleList(), len(widths) - 1
    for level, (narrow, wide) in enumerate(pairwise([widths[0], *widths])):
        blocks.append(DownBlock2D(in_channels=narrow, out_channels=wide, add_downsample=level < last, **options))
    return blocks


def _up_blocks(widths: Sequence[int], options: Mapping[str, Any]) -> nn.ModuleList:
    """The way back, from the lowest level up; each block but the last of the list doubles the picture."""
    from diffusers.models.unets.unet_2d_blocks import UpBlock2D

    blocks, last = nn.ModuleList(), len(widths) - 1
    for level in reversed(range(len(widths))):
        block = UpBlock2D(
            in_channels=widths[max(level - 1, 0)],
            prev_output_channel=widths[min(level + 1, last)],
            out_channels=widths[level],
            add_upsample=level > 0,
            **options,
        )
        blocks.append(block)
    return blocks
