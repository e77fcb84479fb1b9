"""Tokens skip layers (p-MoD, arXiv 2412.04449): of each bidirectional span only a share passes through a layer.

Layer l of L keeps the share cos(pi l / (L - 1)) / 2 + `mean`, at least 0.15; above 0.85 it keeps all. Kept are those of
highest w = 1 + 0.2 tanh(u x + b), of equal ones the first; u = b = 0 at the start, so that layers begin with the first
tokens. A kept token's feed-forward is multiplied by w; a dropped token leaves the layer as w x, and is no key there.
A span is present as a whole in training and at every denoising step, so the choice sees nothing that is later. Tokens
of other spans, as text, are always kept. The kept tokens are gathered and the layer runs on them alone, with a cache of
its own.

Shapes: B rows, S slots, T = B * S tokens, k the most tokens kept of a row, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.owners import zeros
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.skip_cache import SkipCache
from mot_gen.backbone.skipping import SkippingDepth, blocks_of, run_on
from mot_gen.sequence import PADDING


@dataclass(frozen=True)
class Depth(SkippingDepth):
    """mean: of the shares. share: of every layer, instead of shares that fall with depth."""

    mean: float = 0.5
    share: float | None = None

    untied = ("skip",)

    def fit(self, config: Any) -> Self:
        for option in ("mean", "share"):
            value = getattr(self, option)
            if value is not None and not 0 < value <= 1:
                raise self.refuse(option, f"must be above 0 and at most 1, got {value}")
        return self

    def modules(self, block: Layer) -> parts.Modules:
        skip = block.owners.inward("skip", 1, bias=True, initial=zeros)
        return {"skip": skip}

    def kept_share(self, block: Layer) -> float:
        """The share of a span's tokens that passes through this layer."""
        if self.share is not None:
            return self.share
        share = math.cos(math.pi * block.number / max(block.layers - 1, 1)) / 2 + self.mean
        return 1.0 if share > 0.85 else max(share, 0.15)

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: SkipCache | None) -> Tensor:
        batch = plan.batch
        assert batch is not None, "`follow` says that its tokens have a layout"
        shape = batch.layout.shape
        skippable = blocks_of(batch) != PADDING
        weight = 1 + 0.2 * torch.tanh(plan.routing.unsort(block.skip(x, plan.routing)).view(*shape, 1))
        weight = torch.where(skippable[..., None], weight, 1.0)
        share = self.kept_share(block)
        kept = _kept(batch, weight.detach()[..., 0], share)
        return run_on(kept, f"kept {share}", weight, weight, block, x, plan, cache)

    def reached(self, block: Layer, batch: Batch) -> Batch:
        share, equal = self.kept_share(block), torch.zeros(batch.layout.shape)
        name = f"kept {share}"
        return batch.once(name, lambda: batch.thinned(_kept(batch, equal, share), None, name)[0])

    def flops(self, block: Layer, batch: Batch) -> int:
        return 2 * block.owners.channels(batch.routing)


def _kept(batch: Batch, weight: Tensor, share: float) -> Tensor:
    """(B, S) bool: of each bidirectional span the share of highest weight, rounded, at least one; and all others."""
    block = blocks_of(batch)
    # Sorted by weight, then stably by span: a span's tokens stand together, the heaviest and the earliest first.
    order = weight.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, block.gather(1, order).argsort(dim=1, stable=True))
    span = block.gather(1, order) - PADDING  # from 0
    sizes = span.new_zeros(len(span), span.shape[1] + 1).scatter_add(1, span, torch.ones_like(span))
    firsts = sizes.cumsum(1) - sizes  # where each span begins
    rank = torch.arange(span.shape[1], device=span.device) - firsts.gather(1, span)
    within = rank < (sizes.gather(1, span) * share).round().clamp_min(1)
    return torch.zeros_like(within).scatter(1, order, within | (span == 0))
