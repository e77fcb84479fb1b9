"""span_positions: where the tokens of a span stand."""

from __future__ import annotations

import torch
from torch import Tensor


def span_positions(n: int, grid: tuple[int, int] | None, time: int, kind: str) -> Tensor:
    """(n, 3) positions of a span whose first token stands at `time`: see `Modality.position`."""
    index = torch.arange(n)
    if grid is None:
        row = column = torch.zeros_like(index)
    else:
        row, column = index // grid[1], index % grid[1]
    when = torch.full_like(index, time) if kind == "grid" else time + index
    return torch.stack([when, row, column], dim=1)
