"""Small things that many batches are written with, made once: vocabulary_of, positions_from_zero, zeros, one_token.

Nobody writes into these tensors. Making each anew would cost as much as many slots of a batch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mot_gen.packing.positions import span_positions
from mot_gen.sequence.modality import Modality
from mot_gen.sequence.vocabulary import Vocabulary


@lru_cache(maxsize=64)
def vocabulary_of(modalities: tuple[Modality, ...]) -> Vocabulary:
    """The vocabulary of some modalities."""
    return Vocabulary(modalities)


@lru_cache(maxsize=4096)
def positions_from_zero(n: int, grid: tuple[int, int] | None, kind: str) -> Tensor:
    """(n, 3), `span_positions` of a span that begins at time 0."""
    return span_positions(n, grid, 0, kind)


@lru_cache(maxsize=4096)
def zeros(n: int) -> Tensor:
    """(n,) int64."""
    return torch.zeros(n, dtype=torch.long)


@lru_cache(maxsize=4096)
def one_token(id: int) -> Tensor:
    """(1,) int64."""
    return torch.tensor([id])
