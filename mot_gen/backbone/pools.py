"""The tokens among which experts share out their work: Pool, Pools, make_pools, assignments.

A *pool* is a tower's tokens, or all tokens where the feed-forward is not untied, and the experts among which they are
routed. A pool of one expert routes nothing.

Shapes: T tokens in tower order, n tokens of a pool, E experts of a pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.backbone.routing import Routing
from mot_gen.sequence import PADDING, Layout


@dataclass
class Pool:
    """What a router may know of a pool. kept: as in `Pools`. group: (n,) the document of each token, a number of its
    own in each row. real: (n,) bool, not padding. balance_weight: of the loss that keeps the experts' loads even."""

    kept: Tensor | None
    group: Tensor
    real: Tensor
    balance_weight: float


@dataclass
class Pools:
    """What a layer of experts needs of a layout, made once per batch.

    counts: the pools' numbers of tokens. kept: for each pool of several experts under expert choice, (K,) int64 the
    places that one expert takes of its tokens sorted by document, then by falling score; None for other pools.
    group, real: (T,) of all pools' tokens, see `Pool`.
    """

    counts: list[int]
    kept: list[Tensor | None]
    group: Tensor
    real: Tensor

    def each(self, balance_weights: Sequence[float]) -> list[Pool]:
        parts = zip(self.kept, self.group.split(self.counts), self.real.split(self.counts), balance_weights)
        return [Pool(*part) for part in parts]


def make_pools(
    layout: Layout, routing: Routing, counts: list[int], experts: Sequence[int], expert_choice: bool
) -> Pools:
    """Pools of `counts` tokens in tower order, with their numbers of experts."""
    document = layout.document
    row = torch.arange(len(document), device=document.device)[:, None] * (document.max() + 2)
    group = routing.sort((row + document - PADDING).flatten())
    kept: list[Tensor | None] = []
    for part, number in zip(group.split(counts), experts):
        kept.append(_kept(part, number) if expert_choice and number > 1 else None)
    return Pools(counts, kept, group, routing.sort(document.flatten() != PADDING))


def _kept(group: Tensor, experts: int) -> Tensor:
    """The first n / E places (rounded, at least one) of each group, of n, once tokens are sorted by group."""
    _, ordered, sizes = group.sort().values.unique_consecutive(return_inverse=True, return_counts=True)
    rank = torch.arange(len(group), device=group.device) - (sizes.cumsum(0) - sizes)[ordered]
    capacity = (sizes / experts).round().clamp_min(1)
    return (rank < capacity[ordered]).nonzero().flatten()


def assignments(pools: Pools, experts: Sequence[int], taken: int) -> int:
    """How many times the batch passes through an expert. taken: experts of each token where tokens choose."""
    passes = 0
    for count, kept, number in zip(pools.counts, pools.kept, experts):
        if kept is not None:
            passes += number * len(kept)
        else:
            passes += count * (taken if number > 1 else 1)
    return passes
