"""What patch layers are made of: TimeEmbedding, sinusoids, grid_embedding, GridTable, by_grid, weights_in.

Shapes: N tokens of n spans, D width of the backbone.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError
from mot_gen.sequence import Latents
from mot_gen.sequence.moving import upload

USUAL_TIME_SCALE = 1000.0


class TimeEmbedding(nn.Module):
    """(n,) times in [0, 1] -> (n, dim): sinusoids of scale * t, then two layers (Ho et al. 2020; scale 1: BAGEL)."""

    def __init__(self, dim: int, frequencies: int = 256, scale: float = USUAL_TIME_SCALE):
        super().__init__()
        self.frequencies, self.scale = frequencies, scale
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def flops(self, spans: int) -> int:
        """FLOPs of embedding the times of so many spans."""
        return 2 * spans * weights_in(self)

    def forward(self, time: Tensor) -> Tensor:
        dtype = next(self.mlp.parameters()).dtype
        return self.mlp(sinusoids(self.scale * time.float(), self.frequencies).to(dtype))


def weights_in(module: nn.Module) -> int:
    """Weights of the products and convolutions in a module."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


def sinusoids(x: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """(n,) -> (n, dim): cosines and sines of x at dim / 2 frequencies from 1 down to 1 / longest."""
    half = dim // 2
    angle = x[:, None] * torch.exp(torch.arange(half, device=x.device) * (-math.log(longest) / half))
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def grid_embedding(grids: list[tuple[int, int]], dim: int, device=None) -> Tensor:
    """(N, dim) fixed 2-D embedding of every token of the given grids: half for its row, half for its column (BAGEL)."""
    parts = []
    for rows, columns in grids:
        row = sinusoids(torch.arange(rows, device=device).float(), dim // 2)
        column = sinusoids(torch.arange(columns, device=device).float(), dim - dim // 2)
        parts.append(torch.cat([row.repeat_interleave(columns, 0), column.repeat(rows, 1)], dim=-1))
    return torch.cat(parts) if parts else torch.zeros(0, dim, device=device)


class GridTable(nn.Module):
    """A fixed table of positions: weight (side * side, dim), for row and column its row (side * row + column).

    It begins as MAE's and BAGEL's: a quarter each of sin(column), cos(column), sin(row), cos(row). It is saved with
    the model, and not trained.
    """

    def __init__(self, side: int, dim: int, name: str):
        super().__init__()
        if side < 1 or dim % 4:
            raise InputError(f"patch_layers.{name}.table: needs a side of at least 1, and backbone.dim a multiple of 4")
        self.side, self.name = side, name
        self.weight = nn.Parameter(torch.zeros(side * side, dim), requires_grad=False)

    def reset_parameters(self) -> None:
        """The sines and cosines of a square of side x side."""
        if self.weight.is_meta:
            return
        row_cos, row_sin, column_cos, column_sin = grid_embedding(
            [(self.side, self.side)], self.weight.shape[1], self.weight.device
        ).chunk(4, dim=-1)
        self.weight.copy_(torch.cat([column_sin, column_cos, row_sin, row_cos], dim=-1))

    def forward(self, grids: list[tuple[int, int]]) -> Tensor:
        """(N, dim) of every token of the grids, row by row; InputError for a grid that the table does not hold."""
        places = []
        for rows, columns in grids:
            if max(rows, columns) > self.side:
                raise InputError(
                    f"{self.name}: a grid of {rows} x {columns} tokens is beyond this model's "
                    f"{self.side} x {self.side}; give a smaller picture"
                )
            index = torch.arange(rows * columns, device=self.weight.device)
            places.append(index // columns * self.side + index % columns)
        none = torch.zeros(0, dtype=torch.long, device=self.weight.device)
        return self.weight[torch.cat(places) if places else none]


def by_grid(latents: Latents):
    """What `_groups` says of them, found once."""
    return latents.once("groups", lambda: _groups(latents))


def _groups(latents: Latents):
    """(grid, spans, slots of their tokens) for each size of span in the batch; one empty group where there is none,
    so that the layers are called, and get zero gradients, in a batch without this modality."""
    device = latents.values.device
    if not latents.grids:
        none = torch.zeros(0, dtype=torch.long, device=device)
        return [((1, 1), none, none)]
    starts = [0, *accumulate(rows * columns for rows, columns in latents.grids)]
    groups = []
    for grid in dict.fromkeys(latents.grids):
        spans = [number for number, own in enumerate(latents.grids) if own == grid]
        slots = torch.cat([torch.arange(starts[number], starts[number + 1]) for number in spans])
        groups.append((grid, upload(spans, device), upload(slots, device)))
    return groups
