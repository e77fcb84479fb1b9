"""Vectors to the ids of a codebook, and back: NearestEntry (VQ-VAE) and FiniteScalar (FSQ).

Both map z (..., d) to int64 ids (...) and ids to entries (..., d); `straight_through` lets the gradient of an entry
pass to the vector that chose it (van den Oord et al., 2017, Neural Discrete Representation Learning).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError, require


def straight_through(z: Tensor, entry: Tensor) -> Tensor:
    """The value of the entry, the gradient of z."""
    return z + (entry - z).detach()


class NearestEntry(nn.Module):
    """A learned codebook of `size` entries of d values: the id of the nearest in Euclidean distance.

    Its parameters are named as those of diffusers' VectorQuantizer, so a VQModel's weights load into it.
    """

    def __init__(self, size: int, d: int):
        super().__init__()
        require(size > 0, f"a codebook has at least one entry, got {size}")
        self.size = size
        self.embedding = nn.Embedding(size, d)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    def ids(self, z: Tensor) -> Tensor:
        """(..., d) -> (...) in 0 .. size - 1; of equally near entries the first."""
        flat = z.reshape(-1, z.shape[-1]).float()
        return torch.cdist(flat, self.embedding.weight.float()).argmin(-1).view(z.shape[:-1])

    def entries(self, ids: Tensor) -> Tensor:
        """(...) -> (..., d)."""
        return self.embedding(ids)


class FiniteScalar(nn.Module):
    """FSQ (Mentzer et al., 2023, arXiv 2309.15505): each of d values is bounded and rounded to one of `levels[i]`.

    The product of the levels is the size of the codebook, which has no parameters and needs no commitment. An entry
    is (..., d) in [-1, 1]; the paper suggests [8, 5, 5, 5] for about 1,024 entries.
    """

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        if not levels or min(levels) < 2:
            raise InputError(f"levels must each be at least 2, got {list(levels)}")
        self.levels = list(levels)
        self.size = math.prod(self.levels)

    def ids(self, z: Tensor) -> Tensor:
        """(..., d) -> (...) in 0 .. size - 1, the first value counting fastest."""
        steps = (self.bounded(z) * self._half_width(z)).round() + self._half_width(z)
        return (steps.long() * self._basis(z.device)).sum(-1)

    def entries(self, ids: Tensor) -> Tensor:
        """(...) -> (..., d) in [-1, 1]."""
        levels = torch.tensor(self.levels, device=ids.device)
        steps = (ids[..., None] // self._basis(ids.device)) % levels
        half = levels // 2
        return (steps - half) / half

    def bounded(self, z: Tensor) -> Tensor:
        """z before rounding, (..., d): squashed so that just the `levels` can be reached, an even count off centre."""
        levels = z.new_tensor(self.levels)
        reach = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        squashed = torch.tanh(z + torch.atanh(offset / reach)) * reach - offset
        return squashed / self._half_width(z)

    def _half_width(self, z: Tensor) -> Tensor:
        return z.new_tensor(self.levels) // 2

    def _basis(self, device) -> Tensor:
        return torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))], device=device)
