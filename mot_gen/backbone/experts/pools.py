"""The tokens among which experts share out their work: Pool, RouterState, Pools, make_pools, assignments.

A *pool* is a tower's tokens, or all tokens where the feed-forward is not untied, and the experts among which they are
routed. A pool of one expert routes nothing.

Shapes: T tokens in tower order, n tokens of a pool, E experts of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.backbone.routing import Routing
from mot_gen.sequence import PADDING, Layout
from mot_gen.sequence.moving import upload


@dataclass
class Pool:
    """What a router may know of a pool.

    kept: see `Pools`.
    group: (n,) the document of each token; numbers differ from row to row.
    real: (n,) bool, whether it is a token and not padding.
    modality: (n,) its modality.
    beside: (n, 2) its neighbours to the right and below on the grid of a picture, -1 where there is none.
    balance_weight: the weight of the loss that keeps the experts' loads even.
    state: of the layer.
    modalities: how many the model has, or None if the layout does not say.
    """

    kept: Tensor | None
    group: Tensor
    real: Tensor
    modality: Tensor
    beside: Tensor
    balance_weight: float
    state: RouterState
    modalities: int | None = None


@dataclass(frozen=True)
class RouterState:
    """What a router may know of its layer.

    number: which layer it is. learns: whether it is in training. progress: how much of its training it has had, 0 to 1.
    """

    number: int = 0
    learns: bool = False
    progress: float = 1.0


@dataclass
class Pools:
    """What a layer of experts needs of a layout, made once per batch.

    counts: how many tokens each pool has.
    kept: for each pool of several experts under expert choice, (K,) int64: if its tokens are sorted by document, then
    by falling score, the places that one expert takes. None for other pools.
    group, real, modality, beside: of the T tokens of all pools, see `Pool`.
    modalities: see `Pool`.
    """

    counts: list[int]
    kept: list[Tensor | None]
    group: Tensor
    real: Tensor
    modality: Tensor
    beside: Tensor
    modalities: int | None = None

    def each(self, balance_weights: Sequence[float], state: RouterState) -> list[Pool]:
        parts = []
        tokens = [each.split(self.counts) for each in (self.group, self.real, self.modality, self.beside)]
        for kept, group, real, modality, beside, weight in zip(self.kept, *tokens, balance_weights):
            parts.append(Pool(kept, group, real, modality, beside, weight, state, self.modalities))
        return parts


def make_pools(
    layout: Layout,
    routing: Routing,
    counts: list[int],
    experts: Sequence[int],
    expert_choice: bool,
    on_grid: bool = False,
) -> Pools:
    """Pools of `counts` tokens in tower order, with their numbers of experts. on_grid: whether to find neighbours."""
    document = layout.document
    row = torch.arange(len(document), device=document.device)[:, None] * (document.max() + 2)
    group = routing.sort((row + document - PADDING).flatten())
    kept: list[Tensor | None] = []
    for place, (part, number) in enumerate(zip(group.split(counts), experts)):
        chooses = expert_choice and number > 1
        kept.append(_kept(part, number, layout, f"kept by {number} of {counts}, {place}") if chooses else None)
    real, modality = routing.sort(document.flatten() != PADDING), routing.sort(layout.modality.flatten())
    beside = _beside(layout, routing, counts) if on_grid else group.new_full((len(group), 2), -1)
    modalities = None if layout.counts is None else len(layout.counts)
    return Pools(counts, kept, group, real, modality, beside, modalities)


def _beside(layout: Layout, routing: Routing, counts: list[int]) -> Tensor:
    """(T, 2) `Pool.beside` of tokens in tower order. Tokens of a span keep their order there, row after row."""
    rows = torch.arange(len(layout.span), device=layout.span.device)[:, None]
    most = layout.span.shape[1] + 1  # spans of a row, and padding
    span = routing.sort((rows * most + layout.span - PADDING).flatten())
    row, column = routing.sort(layout.position[..., 1:].flatten(0, 1)).unbind(1)
    columns = span.new_zeros(len(rows) * most).scatter_reduce(0, span, column, "amax")[span] + 1
    place = torch.arange(len(span), device=span.device)
    starts = upload(counts, span.device).cumsum(0)
    pool = torch.bucketize(place, starts, right=True)
    found = []
    for step, down in ((torch.ones_like(columns), 0), (columns, 1)):
        other = (place + step).clamp_max(len(span) - 1)
        aside = (row[other] - row == down) & (column[other] - column == 1 - down)
        there = (span[other] == span) & (pool[other] == pool) & aside
        first = torch.where(pool == 0, 0, starts[(pool - 1).clamp_min(0)])
        found.append(torch.where(there, other - first, -1))
    return torch.stack(found, 1)


def _kept(group: Tensor, experts: int, layout: Layout, name: str) -> Tensor:
    """Once tokens are sorted by group, the first n / E places (rounded, at least one) of each group of n tokens.

    name: under which the layout keeps how many they are, so that they are counted once, while it is on the host.
    """
    ordered = group.sort().values
    first = torch.searchsorted(ordered, ordered)
    sizes = torch.searchsorted(ordered, ordered, right=True) - first
    kept = torch.arange(len(group), device=group.device) - first < (sizes / experts).round().clamp_min(1)
    [number] = layout.once(name, lambda: [int(kept.sum())])
    return kept.logical_not().argsort(stable=True)[:number]


def assignments(pools: Pools, experts: Sequence[int], taken: Callable[[int], int]) -> int:
    """How many passes of a token through an expert a batch takes. taken: number of experts of a pool -> how many a
    token takes, where tokens choose."""
    passes = 0
    for count, kept, number in zip(pools.counts, pools.kept, experts):
        if kept is not None:
            passes += number * len(kept)
        else:
            passes += count * (taken(number) if number > 1 else 1)
    return passes
