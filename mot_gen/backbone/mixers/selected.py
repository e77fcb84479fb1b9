"""Heads that attend among the tokens that chose them (Union of Experts, arXiv 2503.02495).

A token keeps `kept` of its H heads, those of the highest softmax(W x). A head compares only tokens that kept it, as
queries and as keys; a token always sees itself. What a head finds is weighed by kept * score, renormalised, so that
with W = 0 and all heads kept this is plain attention. The choice is a token's own: the published form, which takes the
best half of a whole sequence, would see later tokens. Every pair is computed here and some are hidden; `flops` counts
those that are left where tokens choose evenly.

Shapes: B rows, T tokens in tower order, H heads, Q queries, N keys, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.cache import JoinedCache, KeyValueCache
from mot_gen.backbone.mixers import attention
from mot_gen.backbone.parts import Layer


@dataclass(frozen=True)
class Mixer(attention.Mixer):
    """kept: heads of a token; 0: half of them. The others are options of `attention`."""

    kept: int = 0

    untied = (*attention.Mixer.untied, "head_router")

    def fit(self, config: Any) -> Self:
        fitted = super().fit(config)
        heads = fitted.heads or 0
        kept = self.kept or max(1, heads // 2)
        if not 1 <= kept <= heads:
            raise self.refuse("kept", f"must be from 1 to the heads, {heads}, got {kept}")
        return replace(fitted, kept=kept)

    def check(self, config: Any, towers: Sequence[str]) -> None:
        if config.head_choice != "every":
            raise self.refuse("kind", "selected chooses heads itself, as backbone.head_choice does; drop one of them")

    def modules(self, block: Layer) -> parts.Modules:
        return {**super().modules(block), "head_router": block.owners.inward("head_router", self.heads or 0)}

    def _flex(self, batch: Batch) -> bool:
        return False

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> JoinedCache:
        """Keys and values, and of each token one number a head: whether it kept it."""
        bits = like.new_zeros(rows, block.heads, length, 1)
        return JoinedCache(super().cache(block, rows, length, like), KeyValueCache(bits, bits[..., :0].clone()))

    def prepare(self, block: Layer, batch: Batch) -> None:
        super().prepare(block, batch)
        query, key = batch.places
        batch.once("others", lambda: (query.index[:, :, None] != key.index[:, None])[:, None])

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        routing, mask = plan.routing, plan.made[block.sight]
        q, k, v = self.project(block, x, plan)
        weights, bits = self._choose(block.head_router(x, routing))
        bits = routing.unsort(bits).view(plan.rows, -1, block.heads, 1).transpose(1, 2).to(k.dtype)
        if cache is not None:
            keys, chosen = cache.parts
            k, v = keys.write(k, v, mask.shape[-1])
            bits, _ = chosen.write(bits, bits[..., :0], mask.shape[-1])
        hidden = (bits.transpose(2, 3) == 0) & plan.made["others"]
        mask = mask.masked_fill(hidden, float("-inf"))
        mixed = routing.sort(self.attend(block, q, k, v, mask, plan).transpose(1, 2).flatten(0, 1))
        return block.out((mixed * weights[..., None].to(mixed.dtype)).flatten(1), routing)

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """logits (T, H) -> the weights of the heads, and which of them are kept, 0 or 1; (T, H) each."""
        score = logits.float().softmax(-1)
        best, chosen = score.topk(self.kept, dim=-1)
        gate = self.kept * best / best.sum(-1, keepdim=True)
        none = torch.zeros_like(score)
        return none.scatter(1, chosen, gate), none.detach().scatter(1, chosen, 1.0)

    def flops(self, block: Layer, batch: Batch) -> int:
        """A share kept / H of the projections, and the square of it of the pairs."""
        share = self.kept / block.heads
        channels = block.heads * block.head_dim
        outer = block.owners.channels(batch.routing)
        projections = share * outer * 2 * (channels + block.kv_heads * block.head_dim)
        pairs = share**2 * block.parts.reach.pairs(batch)
        return round(2 * (projections + outer * block.heads + 2 * pairs * channels))

    def executed_flops(self, block: Layer, batch: Batch) -> int:
        return super().executed_flops(block, batch) + 2 * block.owners.channels(batch.routing) * block.heads

    def activations(self, block: Layer, batch: Batch) -> float:
        """Beside attention's, a mask for each head and the weighed heads."""
        rows, length = batch.layout.shape
        return super().activations(block, batch) + rows * length * block.heads * (length + block.head_dim + 6)
