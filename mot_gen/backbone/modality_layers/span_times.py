"""Vectors that are added to the continuous tokens of a span: condition, the embedded time of a span;
condition_of_tokens, the same for each token; on_grid, the embedded positions of its tokens.

embed_times is for samplers, which know all times beforehand. condition_flops counts `condition`.

Shapes: N tokens of n spans, C channels of a token, D width of the backbone.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mot_gen.backbone.modality_layers.embeddings import TimeEmbedding, grid_embedding
from mot_gen.sequence import Latents


class TimedPatchLayers(Protocol):
    """Patch layers that embed a span's time, and perhaps the size of the sampler's step."""

    time: TimeEmbedding
    step: TimeEmbedding | None


def condition(layers: TimedPatchLayers, latents: Latents) -> Tensor:
    """The embedded time of every span, (n, D), with that of the step's size where the objective takes steps. It is
    (1, D) where `latents.conditioning` is one for all."""
    if latents.conditioning is not None:
        return latents.conditioning
    return embed_times(layers, latents.times(), latents.step)


def condition_of_tokens(layers: TimedPatchLayers, latents: Latents) -> Tensor:
    """As `condition`, for each token: (N, D), or (1, D) where all have the same."""
    conditioning = condition(layers, latents)
    one_for_all = latents.conditioning is not None and len(conditioning) == 1
    return conditioning if one_for_all else latents.per_token(conditioning)


def embed_times(layers: TimedPatchLayers, time: Tensor, step: Tensor | None) -> Tensor:
    """time and step (n,) -> (n, D); step None is 0, and is not looked at where the objective takes none."""
    embedded = layers.time(time)
    if layers.step is None:
        return embedded
    if step is None:
        step = torch.zeros_like(time)
    return embedded + layers.step(step)


def condition_flops(layers: TimedPatchLayers, latents: Latents) -> int:
    """FLOPs of `condition`."""
    spans = len(latents.learned)
    flops = layers.time.flops(spans)
    if layers.step is not None:
        flops += layers.step.flops(spans)
    return flops


def on_grid(latents: Latents, tokens: Tensor) -> Tensor:
    """`grid_embedding` of these tokens (N, D): (N, D)."""
    return latents.once("grid", lambda: grid_embedding(latents.grids, tokens.shape[-1], tokens.device))
