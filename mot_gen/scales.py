"""Spans that are read scale by scale, from coarse to fine (VAR, Tian et al. 2024, arXiv 2404.02905).

A span of scales (h_1, w_1), ..., (h_K, w_K) has n = h_1 w_1 + ... + h_K w_K tokens: those of the first scale row by
row, then those of the second, and so on. A token sees all tokens of its own scale and of earlier ones.

as_scales, token_count, bounds, scale_positions, resized; built_from, the linear map from the tokens of earlier scales
to what a scale is predicted from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Scales = tuple[tuple[int, int], ...]


def as_scales(sizes: Sequence[Sequence[int]]) -> Scales:
    """(rows, columns) of each scale, as JSON may have them, as pairs."""
    return tuple((rows, columns) for rows, columns in sizes)


def token_count(scales: Scales) -> int:
    """n, the tokens of a span."""
    return sum(rows * columns for rows, columns in scales)


def bounds(scales: Scales) -> list[tuple[int, int]]:
    """The first token of each scale, and the one after its last."""
    found, first = [], 0
    for rows, columns in scales:
        found.append((first, first + rows * columns))
        first = found[-1][1]
    return found


@lru_cache(maxsize=256)
def scale_positions(scales: Scales) -> Tensor:
    """(n, 3): the number of the scale, which stands for time, and row and column within the scale's own grid."""
    pieces = []
    for number, (rows, columns) in enumerate(scales):
        index = torch.arange(rows * columns, device="cpu")
        pieces.append(torch.stack([torch.full_like(index, number), index // columns, index % columns], 1))
    return torch.cat(pieces)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size): the area's mean where it shrinks, bilinear where it grows, as it is if equal."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]:
        return F.interpolate(maps, size, mode="area")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def built_from(scales: Scales) -> Tensor:
    """(n, n) M: row i has the weights by which earlier scales make up what token i is predicted from.

    x (n, D) -> M x: the scales before token i's, each enlarged to the last scale, summed, and shrunk to that of i. M is
    zero between tokens of one scale, and from a later scale to an earlier one; rows of the first scale are zero.
    """
    last, n = scales[-1], token_count(scales)
    built = torch.zeros(n, n, device="cpu")
    for (first, end), (rows, columns) in zip(bounds(scales), scales):
        one_hot = torch.eye(rows * columns, device="cpu").view(rows * columns, 1, rows, columns)
        enlarged = resize(one_hot, last)
        for (start, stop), size in zip(bounds(scales), scales):
            if start >= end:
                built[start:stop, first:end] = resize(enlarged, size).flatten(1).T
    return built
