"""Nearest neighbours in feature space: for samples beside what they resemble, and for the worst cases."""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.eval.images.feature_sets import square_distances


def nearest_neighbours(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(n, k) numbers of the nearest keys to each query, nearest first, and their distances; k at most len(keys)."""
    queries, keys, k = queries.double(), keys.double(), min(k, len(keys))
    found = [distances.topk(k, largest=False) for _, distances in square_distances(queries, keys)]
    return torch.cat([one.indices for one in found]), torch.cat([one.values for one in found]).sqrt()


def worst_cases(fake: Tensor, real: Tensor, count: int) -> list[int]:
    """The fakes that are farthest from their nearest real neighbour, farthest first."""
    _, distances = nearest_neighbours(fake, real, 1)
    return distances[:, 0].topk(min(count, len(fake))).indices.tolist()
