"""Growth: a dense feed-forward as a shared expert and routed ones (Dense2MoE, arXiv 2510.09094); importance.

The most important channels become an expert that every token passes through, the others are dealt out evenly to routed
experts, of weight 1. The published shape is a quarter of the channels shared, twelve experts and two of them for a
token: 37.5% of the feed-forward. With all experts in use the model computes what it did, to rounding; routers are drawn
anew. Importance is the published one in Python (`importance`, over batches), and on the command line, where there are
no data, the product of the norms of a channel's weights.

Shapes: L layers, E towers, F feed-forward width, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel
from mot_gen.sequence import PackedBatch


@dataclass(frozen=True)
class Growth(base.Growth):
    """experts: routed ones. top_k: of a token. shared: the shared expert's width over a routed one's."""

    experts: int = 12
    top_k: int = 2
    shared: int = 4

    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        return self.by(model, [_size(block.ffn) for block in base.blocks_of(model)])

    @torch.no_grad()
    def by(self, model: MultimodalModel, important: Sequence[Tensor]) -> MultimodalModel:
        """important: of each layer (E, F), how important a channel is."""
        width = base.require_gated(model, "restructured", cut=True)
        parts = self.experts + self.shared
        if self.experts < 2 or self.shared < 1 or width % parts:
            raise InputError(f"experts={self.experts}: with shared={self.shared} must divide the width, {width}")
        require(1 <= self.top_k <= self.experts, f"top_k={self.top_k}: must be from 1 to experts, {self.experts}")
        router = {"kind": "token_choice", "top_k": self.top_k, "weight": "one"}
        made = base.rebuild(
            model,
            ffn_dim=width // parts,
            feed_forward={
                "kind": "experts",
                "experts": self.experts,
                "router": router,
                "shared_experts": self.shared,
            },
            untied=_untied_but_shared(model),
        )
        for own, parent, weights in zip(made.backbone.blocks, base.blocks_of(model), important):
            self._deal(own.ffn, parent.ffn, weights)
        return made

    def _deal(self, own: Any, parent: Any, important: Tensor) -> None:
        """Deal out the channels of one layer among its experts, the most important ones to the shared expert. It is one
        for all towers, so there must be one tower."""
        order = important[0].argsort(descending=True, stable=True)
        size = len(order) // (self.experts + self.shared)
        first, rest = order[: size * self.shared], order[size * self.shared :]
        routed = rest.view(size, self.experts).t()  # dealt out in turn, so that all are as important
        gate, up = parent.gate_up.weight[0].chunk(2)
        down = parent.down.weight[0].t()
        own.shared.gate_up.weight[0] = torch.cat([gate[first], up[first]])
        own.shared.down.weight[0] = down[first].t()
        own.feed_forward.gate_up.weight.copy_(torch.cat([gate[routed], up[routed]], 1))
        own.feed_forward.down.weight.copy_(down[routed].transpose(1, 2))


def _untied_but_shared(model: MultimodalModel) -> list[str]:
    """What towers own; InputError where that is the feed-forward, of which a shared expert could take one tower's."""
    untied = list(model.backbone.config.untied)
    if "ffn" in untied and len(model.backbone.towers) > 1:
        raise InputError("--grow restructured: a shared expert is one for all towers; give a model with a tied ffn")
    return untied


def _size(unit: Any) -> Tensor:
    """(E, F) the product of the norms of a channel's three vectors."""
    gate, up = unit.gate_up.weight.detach().chunk(2, 1)
    return gate.norm(dim=2) * up.norm(dim=2) * unit.down.weight.detach().norm(dim=1)


def importance(model: MultimodalModel, batches: Iterable[tuple[PackedBatch, dict[str, Tensor]]]) -> list[Tensor]:
    """How important each channel is, (E, F) for each layer: the sum of |w dL/dw| over its weights w and over batches
    (Taylor's first order).

    batches: corrupted, as training sees them, with their targets: pairs as `MultimodalModel.corrupt` returns them.
    """
    units = [block.ffn for block in base.blocks_of(model)]
    found = [torch.zeros_like(_size(unit)) for unit in units]
    for batch, targets in batches:
        model.zero_grad()
        masks, losses = model.loss_masks(batch), model.losses(batch, model(batch), targets)
        total = [(losses[name] * mask).sum() / mask.sum().clamp_min(1) for name, mask in masks.items()]
        torch.stack(total).sum().backward()
        for unit, sums in zip(units, found):
            gate, up = _first_order(unit.gate_up.weight).chunk(2, 1)
            sums += gate.sum(2) + up.sum(2) + _first_order(unit.down.weight).sum(1)
    model.zero_grad()
    return found


def _first_order(weight: Any) -> Tensor:
    """|w dL/dw| of each number of a weight."""
    return (weight * weight.grad).detach().abs()
