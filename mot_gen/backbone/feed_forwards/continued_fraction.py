"""Continued fractions (CoFrGeNet-F, arXiv 2601.21766, equation 8): a feed-forward without hidden channels.

    y = U x + sum over ladders j of V_j * z_j
    z_j = 1 / (a_1 + 1 / (a_2 + ... 1 / a_d)),  a_k = W_jk * sigmoid(G x) * x

with a fraction of its own in every channel, all products of W and V element by element. A fraction is the quotient of
two continuants, K_0 = 1, K_1 = a_d, K_m = a_{d-m+1} K_{m-1} + K_{m-2}: z = K_{d-1} / K_d, and its gradient by a_k is
(-1)^k (K_{d-k} / K_d)^2. |K_d| is held at `least` or more. V begins at zero, so that a layer begins linear; the
published schedule, by which deeper a learn later, is left out. It has 2 D^2 weights where a gated unit has 8 D^2: a
study widens the model.

Shapes: n tokens, E sets of parameters, D width of the model, J ladders, d their depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch
from mot_gen.backbone.owners import Owners, zeros
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Owned, Routing


@dataclass(frozen=True)
class FeedForward(parts.FeedForward):
    """ladders: J. steps: d, how deep each is. least: of |K_d|; near a pole a fraction makes rounding 1 / least^2 times
    as large."""

    ladders: int = 3
    steps: int = 5
    least: float = 0.01

    untied = ("ffn",)

    def check(self, config: Any, towers: Sequence[str]) -> None:
        self.require_counts("ladders", "steps")
        if self.least <= 0:
            raise self.refuse("least", f"must be above 0, got {self.least}")
        self.refuse_experts(config)
        if config.widths:
            raise self.refuse("kind", "continued_fraction needs towers of one width; drop backbone.widths")

    def unit(self, block: Layer, owners: Owners) -> nn.Module:
        return Ladders(owners, self)

    def flops(self, block: Layer, batch: Batch) -> int:
        """Two products, and of each ladder d steps and a weight a channel."""
        channels = block.owners.channels(batch.routing)
        return 2 * channels * (2 * block.owners.dim + self.ladders * (self.steps + 1))

    def activations(self, block: Layer, batch: Batch) -> float:
        """For each ladder and channel, d steps and d continuants."""
        return batch.layout.modality.numel() * block.owners.dim * (4 + 2 * self.ladders * self.steps)


class Ladders(Owned):
    """steps: W (E, J, d, D). sums: V (E, J, D)."""

    def __init__(self, owners: Owners, options: FeedForward):
        super().__init__()
        self.linear, self.gate = owners.outward("ffn", owners.dim), owners.inward("ffn", owners.dim)
        sets, ladders, self.least = owners.sets("ffn"), options.ladders, options.least
        self.steps = nn.Parameter(torch.empty(sets, ladders, options.steps, owners.dim))
        self.sums = nn.Parameter(torch.empty(sets, ladders, owners.dim))
        owners.own(self, "ffn", steps=_alike, sums=zeros)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, D)."""
        gated = (torch.sigmoid(self.gate(x, routing)) * x).to(torch.promote_types(x.dtype, torch.float32))
        counts = routing.counts if len(self.steps) > 1 else [len(x)]
        found = []
        for part, steps, sums in zip(gated.split(counts), self.steps, self.sums):
            found.append((fraction((steps * part[:, None, None]).unbind(2), self.least) * sums).sum(1))
        return self.linear(x, routing) + torch.cat(found).to(x.dtype)


def fraction(steps: Sequence[Tensor], least: float) -> Tensor:
    """a_1 to a_d, of one shape -> the continued fraction."""
    return _Fraction.apply(least, *steps)


class _Fraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, least, *steps):
        continuants = [torch.ones_like(steps[0]), steps[-1]]
        for step in reversed(steps[:-1]):
            continuants.append(step * continuants[-1] + continuants[-2])
        last = continuants[-1]
        inverse = 1 / torch.where(last < 0, last.clamp_max(-least), last.clamp_min(least))
        ctx.save_for_backward(inverse, *continuants[:-1])
        return continuants[-2] * inverse

    @staticmethod
    def backward(ctx, grad):
        inverse, *continuants = ctx.saved_tensors  # K_0 to K_{d-1}
        depth = len(continuants)
        return None, *((-1) ** k * grad * (continuants[depth - k] * inverse).square() for k in range(1, depth + 1))


def _alike(steps: Tensor) -> None:
    """Normal, alike for all towers."""
    steps.copy_(torch.randn(steps.shape[1:]))
