"""ShallowUViT, with its Options: patch layers of ConvNeXt blocks with one skip, as JanusFlow's (arXiv 2411.07975).

    latents -> convolution -> blocks -> linear -> tokens         hidden states -> norm -> linear -> norm -> (with the
                            \\____________________________________ skip) -> blocks -> norm -> convolution -> latents

The time of a span bears on every block, and stands in the sequence as a token before the span (`time_tokens`).

Shapes: N tokens of n spans, C channels of a token, D width of the backbone, W channels of the convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.modality_layers.embeddings import TimeEmbedding, by_grid, weights_in
from mot_gen.errors import InputError
from mot_gen.patches import patchify, unpatchify
from mot_gen.sequence import Latents, Modality

KERNEL = 7  # of the convolution of each channel alone


class ChannelNorm(nn.Module):
    """An RMS norm over the channels of a picture (B, W, h, w)."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def reset_parameters(self) -> None:
        """The initial values; a model of a recipe is made without any."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.eps).movedim(-1, 1)


class ResponseNorm(nn.Module):
    """Global response norm (Woo et al. 2023, arXiv 2301.00808) of (B, h, w, C), without its residual: how strong a
    channel is over the whole picture, beside the mean channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.bias = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def reset_parameters(self) -> None:
        """The initial values."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        return x * (self.weight * (length / (length.mean(-1, keepdim=True) + 1e-6)) + 1) + self.bias


class TimedBlock(nn.Module):
    """A ConvNeXt V2 block, whose sum with its input is scaled and shifted by the time."""

    def __init__(self, channels: int, time: int, eps: float):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)
        self.norm = ChannelNorm(channels, eps)
        self.wide = nn.Linear(channels, 4 * channels)
        self.response_norm = ResponseNorm(4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.by_time = nn.Linear(time, 2 * channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, W, h, w), time (B, D) -> the same shape as x."""
        y = self.norm(self.depthwise(x)).movedim(1, -1)
        y = self.narrow(self.response_norm(F.gelu(self.wide(y)))).movedim(-1, 1)
        scale, shift = self.by_time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        return (x + y) * (1 + scale) + shift


@dataclass(frozen=True)
class Options:
    """width: W.
    blocks: before and after the backbone.
    patch_size: side of the patches that make a token.
    eps: of its norms.
    head_eps: of the norm of hidden states.
    reversed_time: the network is given 1 - t, and predicts the velocity towards the data (JanusFlow).
    """

    width: int = 768
    blocks: int = 2
    patch_size: int = 2
    eps: float = 1e-6
    head_eps: float = 1e-6
    reversed_time: bool = False


class ShallowUViT(nn.Module):
    """What it has to have is said in `patch_layers`; its options are those of `Options`. InputError where the patches
    do not divide the modality's channels, and for an objective whose network is given the sampler's step."""

    step = None  # it is not given the sampler's step
    Options = Options

    def __init__(self, dim: int, modality: Modality, takes_step: bool = False, **options: Any):
        super().__init__()
        assert modality.channels is not None
        stated = Options(**options)
        width, eps, patch_size = stated.width, stated.eps, stated.patch_size
        if takes_step or modality.channels % patch_size**2:
            raise InputError(
                f"patch_layers.{modality.name}: shallow_uvit needs a patch_size whose square divides "
                f"{modality.channels} channels, and an objective that is not told the sampler's step"
            )
        self.patch_size, self.reversed_time = patch_size, stated.reversed_time
        channels = modality.channels // patch_size**2
        self.time = TimeEmbedding(dim, frequencies=width)
        self.conv_in = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.before = nn.ModuleList(TimedBlock(width, dim, eps) for _ in range(stated.blocks))
        self.proj_in = nn.Linear(width, dim)
        self.head_norm = nn.RMSNorm(dim, stated.head_eps)
        self.proj_out = nn.Linear(dim, width)
        self.norm_in = ChannelNorm(width, eps)
        self.after = nn.ModuleList(TimedBlock(2 * width, dim, eps) for _ in range(stated.blocks))
        self.norm_out = ChannelNorm(2 * width, eps)
        self.conv_out = nn.Conv2d(2 * width, modality.channels, 1)

    def time_tokens(self, latents: Latents) -> Tensor:
        """(n, D): the embedded time of every span."""
        time = 1 - latents.times() if self.reversed_time else latents.times()
        return self.time(time)

    def encode(self, latents: Latents) -> tuple[Tensor, list[Any]]:
        time = self.time_tokens(latents)
        values = latents.values.to(self.proj_in.weight.dtype)
        tokens = values.new_zeros(len(values), self.proj_in.out_features)
        memory = []
        for grid, spans, slots in by_grid(latents):
            x = self.conv_in(
                unpatchify(values[slots].unflatten(0, (len(spans), grid[0] * grid[1])), grid, self.patch_size)
            )
            for block in self.before:
                x = block(x, time[spans])
            memory.append((time[spans], x))
            made = self.proj_in(x.flatten(2).transpose(1, 2).flatten(0, 1))
            tokens = tokens.index_copy(0, slots, made.to(tokens.dtype))  # under autocast it is in bf16
        return tokens, memory

    def decode(self, hidden: Tensor, latents: Latents, memory: list[Any]) -> Tensor:
        values = hidden.new_zeros(len(hidden), latents.values.shape[1])
        projected = self.proj_out(self.head_norm(hidden))
        for (grid, spans, slots), (time, skip) in zip(by_grid(latents), memory):
            x = projected[slots].unflatten(0, (len(spans), grid[0], grid[1])).movedim(-1, 1)
            x = torch.cat([self.norm_in(x), skip], dim=1)
            for block in self.after:
                x = block(x, time)
            picture = F.pixel_shuffle(self.conv_out(self.norm_out(x)), self.patch_size)
            values = values.index_copy(0, slots, patchify(picture, self.patch_size)[0].flatten(0, 1).to(values.dtype))
        return -values if self.reversed_time else values

    def flops(self, latents: Latents) -> int:
        """Two for each weight and token; the time's layers are once for each span."""
        timed = sum(weights_in(block.by_time) for block in (*self.before, *self.after))  # type: ignore[union-attr]
        spans = self.time.flops(len(latents.learned)) + 2 * len(latents.learned) * timed
        return spans + 2 * len(latents.values) * (weights_in(self) - weights_in(self.time) - timed)

    def activations(self, latents: Latents) -> int:
        """A block of W channels keeps 18 W numbers a token, for norms and branches; other layers keep their inputs."""
        width, tokens = self.conv_in.out_channels, len(latents.values)
        blocks = 18 * width * len(self.before) + 36 * width * len(self.after)
        return tokens * (blocks + 4 * width + 2 * self.proj_in.out_features)
