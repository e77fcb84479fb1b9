"""Attention with an adapter beside it (PILL, arXiv 2311.02126), to be trained while the rest is frozen; see `adapters`.

    attention(x + a(x)),  its values times 1 + tanh(W x), a number for each head and token, where `gate` asks for it

B and W begin at zero, and with them the layer is plain attention. The published gate is tanh(W x) on picture tokens, so
that a language model begins blind; which is no identity, and is not offered.

Shapes: T tokens in tower order, D width, G key/value heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.adapters import GatedAdapter, beside
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.mixers import attention
from mot_gen.backbone.owners import Owners, zeros
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Owned, Routing, grouped_linear


@dataclass(frozen=True)
class Mixer(attention.Mixer):
    """rank: r. gate: whether values are weighed. The others are options of `attention`."""

    rank: int = 8
    gate: bool = True

    untied = (*attention.Mixer.untied, "adapter")

    def modules(self, block: Layer) -> parts.Modules:
        self.require_counts("rank")
        found: dict[str, Any] = dict(super().modules(block))
        found["mixer_side"] = beside(GatedAdapter(block.owners, "adapter", self.rank))
        if self.gate:
            found["value_side"] = beside(Scale(block.owners, block.kv_heads))
        return found

    def project(self, block: Layer, x: Tensor, plan: Plan) -> list[Tensor]:
        q, k, v = super().project(block, x + block.mixer_side.adapter(x, plan.routing).to(x.dtype), plan)
        if self.gate:
            scale = plan.routing.unsort(block.value_side.adapter(x, plan.routing))
            v = v * scale.view(plan.rows, -1, block.kv_heads, 1).transpose(1, 2).to(v.dtype)
        return [q, k, v]

    def _flops(self, block: Layer, batch: Batch, heads: int, pairs: int) -> int:
        beside_it = 3 * self.rank + (block.kv_heads if self.gate else 0)
        return super()._flops(block, batch, heads, pairs) + 2 * block.owners.channels(batch.routing) * beside_it


class Scale(Owned):
    """1 + tanh(W x): b (S, G, D), which begins at zero."""

    def __init__(self, owners: Owners, heads: int):
        super().__init__()
        self.b = nn.Parameter(torch.empty(owners.sets("adapter"), heads, owners.dim))
        owners.own(self, "adapter", b=zeros)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (T, D) -> (T, G)."""
        return 1 + torch.tanh(grouped_linear(x, self.b, routing))
