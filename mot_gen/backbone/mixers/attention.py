"""Attention: projections by tower, one softmax over the whole sequence, shared by all towers.

    x -> qkv -> qk_norm -> RoPE -> softmax(q k / sqrt(K), over what `reach` shows, plus `bias`) v -> head_choice -> out

Shapes: T tokens in tower order, D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.attention import block_mask, dense_mask
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.cache import KeyValueCache, LayerCache, differs
from mot_gen.backbone.head_norms import head_norm
from mot_gen.backbone.head_options import HeadOptions
from mot_gen.backbone.next_token import NextToken
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.queries_and_keys import queries_keys_values
from mot_gen.backbone.rotary import rotary


@dataclass(frozen=True)
class Mixer(HeadOptions):
    """Its options are those of `HeadOptions`."""

    def modules(self, block: Layer) -> parts.Modules:
        owners, (heads, kv_heads, width) = block.owners, self.set_up(block)
        return {
            "qkv": owners.inward("qkv", (heads + 2 * kv_heads) * width, bias=self.qkv_bias),
            "q_norm": head_norm(self.qk_norm, owners, heads, width),
            "k_norm": head_norm(self.qk_norm, owners, kv_heads, width),
            "out": owners.outward("out", heads * width),
        }

    def row_multiple(self, device: torch.device) -> int:
        """FlexAttention works in blocks of 128."""
        return 128 if device.type == "cuda" and self.attention != "sdpa" else 1

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> LayerCache:
        return KeyValueCache.of(like.new_zeros(rows, 2 * block.kv_heads, length, block.head_dim))

    def prepare(self, block: Layer, batch: Batch) -> None:
        position = batch.layout.position[..., 0].flatten() if self.rope_axes is None else batch.axes(self.rope_axes)
        if block.frequencies.device != position.device:  # kept there, so that no batch waits for the copy
            block.frequencies = block.frequencies.to(position.device)
        batch.once(block.turning, lambda: rotary(position, block.frequencies))
        batch.once(block.sight, lambda: self.mask(block, batch))

    def follow(self, block: Layer, step: NextToken) -> bool:
        own = type(self).prepare is Mixer.prepare and type(block.parts.bias).attend is parts.Bias.attend
        if not own or not block.parts.reach.grows or not block.parts.bias.empty:
            return False
        step.turn(block.turning, block.frequencies)
        step.see(block.sight)
        return True

    def mask(self, block: Layer, batch: Batch) -> Any:
        """FlexAttention's BlockMask, or a dense float mask (B, 1 or H, Q, K) with the bias in it."""
        reach, bias = block.parts.reach, block.parts.bias
        query, key = batch.places
        if bias.empty and self._flex(batch):
            return block_mask(query, reach.sees)
        mask = dense_mask(query, key, reach.sees)
        if batch.compiled and batch.cache is not None:
            differs(mask, 3)
        return mask if bias.empty else mask + bias.scores(block, query, key)

    def _flex(self, batch: Batch) -> bool:
        if batch.cache is not None or self.attention == "sdpa":
            return False
        fits = batch.layout.modality.is_cuda and batch.layout.shape[1] % 128 == 0
        return fits or self.attention == "flex"

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        q, k, v = self.project(block, x, plan)
        mask = plan.made[block.sight]
        if cache is not None:
            k, v = cache.write(k, v, mask.shape[-1])
        mixed = self.attend(block, q, k, v, mask, plan).transpose(1, 2).reshape(x.shape[0], -1)
        return block.out(block.parts.head_choice.weigh(block, x, plan.routing.sort(mixed), plan), plan.routing)

    def project(self, block: Layer, x: Tensor, plan: Plan) -> list[Tensor]:
        """x (T, D) in tower order -> q (B, H, S, K), k and v (B, G, S, K), normed and turned."""
        # In sequence order from here on, so that one gather serves queries, keys and values.
        qkv = plan.routing.unsort(block.qkv(x, plan.routing))
        found = queries_keys_values(block, qkv.view(len(qkv), -1, block.head_dim), plan)
        return [t.reshape(plan.rows, -1, t.shape[1], block.head_dim).transpose(1, 2) for t in found]

    def attend(self, block: Layer, q: Tensor, k: Tensor, v: Tensor, mask: Any, plan: Plan) -> Tensor:
        """What the heads find, (B, H, Q, K), of q (B, H, Q, K), k and v (B, G, N, K)."""
        return block.parts.bias.attend(block, q, k, v, mask, plan)

    def flops(self, block: Layer, batch: Batch) -> int:
        """Projections, and the scores with what they weigh, of the heads in use."""
        return self._flops(block, batch, block.parts.head_choice.active(block), block.parts.reach.pairs(batch))

    def executed_flops(self, block: Layer, batch: Batch) -> int:
        """All heads; and every pair, since a dense mask hides keys and skips none."""
        rows, length = batch.layout.shape
        return self._flops(block, batch, block.heads, rows * length**2)

    def _flops(self, block: Layer, batch: Batch, heads: int, pairs: int) -> int:
        used = heads * block.head_dim  # channels of queries and of what the heads find
        projections = block.owners.channels(batch.routing) * (2 * used + 2 * block.kv_heads * block.head_dim)
        return 2 * (projections + 2 * pairs * used)

    def activations(self, block: Layer, batch: Batch) -> float:
        """Queries before and after their rotation and the output, 4 as wide as q and k; 3 statistics a head; and once
        for all layers that see the same the mask, with the input of the norm that follows them."""
        tokens, heads = batch.layout.modality.numel(), block.heads
        mask = tokens * (batch.layout.shape[1] + block.owners.dim) if batch.first(f"counted {block.sight}") else 0
        return tokens * (4 * (heads + block.kv_heads) * block.head_dim + 3 * heads) + mask
