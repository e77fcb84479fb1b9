"""Hidden channels in groups of which a token uses some (MoHD, arXiv 2412.05644, its feed-forward).

    s = softmax(W x);   h = up(x);   h_g = N s_g (sum of s over the groups in use) h_g;   down(activation(fusion(h)))

The first `shared` of N groups are always in use, and of the others the `chosen` of the highest s; fusion is a matrix
for each group, the identity at first, so that with W = 0 and all groups in use this is the feed-forward `plain`.
Everything is computed here and some is hidden; `flops` counts the groups in use. The paper routes channels of other
layers too.

Shapes: n tokens, E sets of parameters, D width of the model, F width of the unit, N groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch
from mot_gen.backbone.feed_forwards import plain
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Owned, Routing


@dataclass(frozen=True)
class FeedForward(plain.FeedForward):
    """groups: N. shared: groups of every token. chosen: of the others. ffn_dim, multiple_of: as of `plain`."""

    groups: int = 16
    shared: int = 6
    chosen: int = 2

    matrices = 0  # it is no unit of experts

    @property
    def step(self) -> int:
        return self.groups

    def fit(self, config: Any) -> Self:
        fitted = super().fit(config)
        fitted.require_counts("groups")
        if (fitted.ffn_dim or 0) % self.groups:
            raise self.refuse("groups", f"{self.groups} must divide the width, {fitted.ffn_dim}")
        if self.shared < 0 or self.chosen < 0 or not 1 <= self.shared + self.chosen <= self.groups:
            complaint = f"shared and chosen together must be from 1 to {self.groups}, got {self.shared + self.chosen}"
            raise self.refuse("chosen", complaint)
        return fitted

    def check(self, config: Any, towers: Sequence[str]) -> None:
        self.refuse_experts(config)
        if config.widths:
            raise self.refuse("kind", "hidden_groups needs towers of one width; drop backbone.widths")

    def unit(self, block: Layer, owners: Owners, times: int = 1) -> nn.Module:
        return Groups(self, block.parts.activation, owners)

    def flops(self, block: Layer, batch: Batch) -> int:
        return self._flops(block, batch, self.shared + self.chosen)

    def executed_flops(self, block: Layer, batch: Batch) -> int:
        return self._flops(block, batch, self.groups)

    def _flops(self, block: Layer, batch: Batch, used: int) -> int:
        width = (self.ffn_dim or 0) // self.groups
        outer = block.owners.channels(batch.routing)
        fusion = batch.layout.modality.numel() * used * width**2
        return 2 * (outer * (2 * used * width + self.groups) + fusion)

    def activations(self, block: Layer, batch: Batch) -> float:
        """Channels before and after their weights, fused, and active."""
        return batch.layout.modality.numel() * (4 * (self.ffn_dim or 0) + 3 * self.groups)


class Groups(Owned):
    """fusion: (E, N, F / N, F / N)."""

    def __init__(self, options: FeedForward, activation: parts.Activation, owners: Owners):
        super().__init__()
        self.options, self.activation = options, activation
        hidden, width = options.ffn_dim or 0, (options.ffn_dim or 0) // options.groups
        self.up, self.down = owners.up("ffn", hidden), owners.down("ffn", hidden)
        self.group_router = owners.inward("ffn", options.groups)
        self.fusion = nn.Parameter(torch.empty(owners.sets("ffn"), options.groups, width, width))
        self.learned = activation.module(owners)
        owners.own(self, "ffn", fusion=_identities)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, D)."""
        score = self.group_router(x, routing).float().softmax(-1)
        used = torch.ones_like(score)
        if self.options.shared + self.options.chosen < self.options.groups:
            others = score[:, self.options.shared :]
            used = torch.zeros_like(others).scatter(1, others.topk(self.options.chosen).indices, 1.0)
            used = torch.cat([torch.ones_like(score[:, : self.options.shared]), used], 1)
        weight = self.options.groups * score * used * (score * used).sum(-1, keepdim=True)
        hidden = self.up(x, routing).unflatten(1, (self.options.groups, -1))
        hidden = self._fuse(hidden * weight[..., None].to(hidden.dtype), routing)
        if self.learned is not None:
            return self.down(self.learned(hidden, routing), routing)
        return self.down(self.activation.function(hidden), routing)

    def _fuse(self, hidden: Tensor, routing: Routing) -> Tensor:
        """(n, N, F / N) -> (n, F)."""
        counts = routing.counts if len(self.fusion) > 1 else [len(hidden)]
        parts = [torch.einsum("nga,gba->ngb", part, own) for part, own in zip(hidden.split(counts), self.fusion)]
        return torch.cat(parts).flatten(1)


def _identities(matrices: Tensor) -> None:
    matrices.copy_(torch.eye(matrices.shape[-1]).expand_as(matrices))
