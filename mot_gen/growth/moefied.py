"""Growth: experts found in a dense feed-forward (EMoE, arXiv 2310.10908). There are no new weights but the routers'.

The rows of the gate's matrix, each of length 1, are clustered by K-means into experts of equal size; an expert's score
is the mean of its rows' products with the token, which is the product with their mean. A token takes its best `used`
experts, of weight 1. With all of them in use the model computes what it did, to rounding.

Shapes: E experts, F feed-forward width, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mot_gen.errors import require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel

ROUNDS = 10  # of K-means; it has settled before


@dataclass(frozen=True)
class Growth(base.Growth):
    """experts: E. used: of a token. every: how many layers there are to each that is cut; the published 2."""

    experts: int = 16
    used: int = 4
    every: int = 2

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        width = base.require_gated(model, "moefied", cut=True)
        divides = self.experts >= 1 and width % self.experts == 0
        require(divides, f"experts={self.experts}: must divide the feed-forward's width, {width}")
        fits = 1 <= self.used <= self.experts and self.every >= 1
        require(fits, f"used={self.used}: must be from 1 to experts, {self.experts}, and every at least 1")
        cut = {"kind": "slices", "slices": self.experts, "used": self.used, "weight": "one"}
        made = base.rebuild(model, feed_forward=[*["gated"] * (self.every - 1), cut])
        for own, parent in zip(made.backbone.blocks, base.blocks_of(model)):
            if own.routed:
                self._cut(own.ffn, parent.ffn)
        return made

    def _cut(self, own, parent) -> None:
        """Deal out a parent's channels, tower by tower."""
        gates, ups = parent.gate_up.weight.chunk(2, 1)
        found = []
        for gate, up, down in zip(gates, ups, parent.down.weight):
            order = clusters(gate, self.experts)
            found.append([gate[order], up[order], down.t()[order]])  # (E, F / E, D) each
        gate, up, down = (torch.cat(parts) for parts in zip(*found))
        own.feed_forward.gate_up.weight.copy_(torch.cat([gate, up], 1))
        own.feed_forward.down.weight.copy_(down.transpose(1, 2))
        own.router.copy_(gate.mean(1))


def clusters(rows: Tensor, number: int) -> Tensor:
    """(F, D) -> (E, F / E) the numbers of the rows in each of E clusters of equal size."""
    size, points = len(rows) // number, F.normalize(rows.double(), dim=1)
    centres = points[torch.linspace(0, len(rows) - 1, number).round().long()]
    order = None
    for _ in range(ROUNDS):
        cost = -(points @ centres.t()).repeat_interleave(size, 1)  # a place for each row of a cluster
        row, place = linear_sum_assignment(cost.cpu().numpy())
        found = torch.as_tensor(row)[torch.as_tensor(place).argsort()].view(number, size).sort(1).values
        if order is not None and torch.equal(found, order):
            break
        order = found
        centres = F.normalize(points[order].mean(1), dim=1)
    assert order is not None, "there is at least one round"
    return order.to(rows.device)
