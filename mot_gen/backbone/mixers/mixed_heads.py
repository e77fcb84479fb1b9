"""Attention whose projections mix heads alone, or channels within a head alone (Dual-Stream, arXiv 2603.07461).

The width of the model is read as H heads of K channels. Each of the maps to q, k, v and back is

    kronecker      W x I, with W (H, H): heads are mixed, every channel alike
    independent    H blocks (K, K): channels are mixed, every head for itself

in the place of a full matrix (H K, H K). Of a full matrix that is made of these, `attention` computes the same.

Shapes: n tokens in tower order, S sets of parameters, D = H K width, M maps side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch
from mot_gen.backbone.head_norms import head_norm
from mot_gen.backbone.mixers import attention
from mot_gen.backbone.owners import Owners, normal
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Owned, Routing
from mot_gen.errors import nearest

# What a token's heads (n, H, K) are multiplied by: (M, H, H) or (M, H, K, K), heads that come out first.
MIXINGS = {"kronecker": "ngk,mhg->nmhk", "independent": "nhj,mhkj->nmhk"}


@dataclass(frozen=True)
class Mixer(attention.Mixer):
    """mixing: "kronecker" or "independent". The others are options of `attention`."""

    mixing: str = "kronecker"

    def check(self, config: Any, towers: Sequence[str]) -> None:
        if self.mixing not in MIXINGS:
            raise self.refuse("mixing", f"{self.mixing!r} is not known" + nearest(self.mixing, MIXINGS))
        full = self.kv_heads == self.heads and (self.heads or 0) * (self.head_dim or 0) == config.dim
        if not full or self.qkv_bias or config.widths:
            complaint = "mixed_heads reads the width as heads; drop kv_heads, head_dim, qkv_bias and widths"
            raise self.refuse("kind", complaint)

    def modules(self, block: Layer) -> parts.Modules:
        owners, (heads, kv_heads, width) = block.owners, self.set_up(block)
        return {
            "qkv": MixedHeads(owners, "qkv", self.mixing, 3, heads, width),
            "q_norm": head_norm(self.qk_norm, owners, heads, width),
            "k_norm": head_norm(self.qk_norm, owners, kv_heads, width),
            "out": MixedHeads(owners, "out", self.mixing, 1, heads, width, owners.residual),
        }

    def _flops(self, block: Layer, batch: Batch, heads: int, pairs: int) -> int:
        """Four maps, of which a channel takes H or K products, and the scores with what they weigh."""
        each = block.heads if self.mixing == "kronecker" else block.head_dim
        projections = block.owners.channels(batch.routing) * 4 * each
        return 2 * (projections + 2 * pairs * heads * block.head_dim)


class MixedHeads(Owned):
    """M maps side by side: weight (S, M, H, H) or (S, M, H, K, K)."""

    def __init__(self, owners: Owners, name: str, mixing: str, maps: int, heads: int, width: int, scale: float = 1.0):
        super().__init__()
        shape = (heads, heads) if mixing == "kronecker" else (heads, width, width)
        self.weight = nn.Parameter(torch.empty(owners.sets(name), maps, *shape))
        self.form, self.heads = MIXINGS[mixing], heads
        owners.own(self, name, weight=partial(normal, scale=scale))

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, M D)."""
        counts = routing.counts if len(self.weight) > 1 else [len(x)]
        towers = zip(x.unflatten(1, (self.heads, -1)).split(counts), self.weight)
        return torch.cat([torch.einsum(self.form, part, weight).flatten(1) for part, weight in towers])
