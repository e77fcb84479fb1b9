"""Combiner (arXiv 2107.05768): a token sees its own segment key by key, and every earlier one by a summary.

    summary of segment r    q~ = max of its q;  k~ = max of its k;  v~ = sum_j softmax_j(q~ k_j / sqrt(K)) v_j
    token i                 one softmax over the keys of its own segment that it sees, and k~ of all earlier ones

Segments are the bidirectional spans, and runs of at most `segment` other tokens of one document between these; the
published segments are cut at fixed places, across documents. A segment is summarised once it is closed, which it is for
every token of a later one. Summaries are made of the kept queries, keys and values again in each pass.

Shapes: B rows, H heads, G key/value heads, Q queries, N keys, R segments of a row, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.backbone.attention import Places
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.cache import KeyValueCache
from mot_gen.backbone.mixers import attention
from mot_gen.backbone.parts import Layer
from mot_gen.sequence import PADDING


@dataclass(frozen=True)
class Mixer(attention.Mixer):
    """segment: the most tokens of a run. The others are options of `attention`."""

    segment: int = 64

    def check(self, config: Any, towers: Sequence[str]) -> None:
        self.require_counts("segment")
        biased = not all(bias.empty for bias in config.roles.parts["bias"])
        if biased or config.reach != "full":
            raise self.refuse("kind", "combiner says itself what a query sees; leave backbone.reach and bias out")

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> KeyValueCache:
        """Keys with the queries beside them, and values."""
        keys = like.new_zeros(rows, block.kv_heads + block.heads, length, block.head_dim)
        return KeyValueCache(keys, keys[:, : block.kv_heads].clone())

    def prepare(self, block: Layer, batch: Batch) -> None:
        super().prepare(block, batch)
        batch.once(f"segments {self.segment} {block.sight}", lambda: self._segments(block, batch))

    def _flex(self, batch: Batch) -> bool:
        return False

    def _segments(self, block: Layer, batch: Batch) -> tuple[Tensor, int, Tensor]:
        """(B, N) the segment of each key; R; and (B, 1, Q, N + R), 0 for what is seen and -inf elsewhere."""
        segment, number = self._counted(batch)
        seen = batch.made[block.sight][:, 0] == 0
        own = segment.gather(1, batch.places[0].index)
        summaries = seen.new_zeros(*own.shape, number, dtype=torch.uint8)
        summaries = summaries.scatter_reduce(2, segment[:, None].expand(seen.shape), seen.to(torch.uint8), "amax") > 0
        closed = torch.arange(number, device=own.device) < own[..., None]
        direct = seen & (own[..., None] == segment[:, None])
        shown = torch.cat([direct, summaries & closed], 2)
        return segment, number, torch.zeros(shown.shape, device=own.device).masked_fill(~shown, -torch.inf)[:, None]

    def _counted(self, batch: Batch) -> tuple[Tensor, int]:
        """(B, N) the segment of each key, and R. Without a cache the host counts them where the layout is there."""
        segment = segments(batch.places[1], self.segment)
        if batch.cache is not None:
            return segment, int(segment.max()) + 1
        return segment, batch.layout.once(f"segments of {self.segment}", lambda: [int(segment.max()) + 1])[0]

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: KeyValueCache | None) -> Tensor:
        segment, number, mask = plan.made[f"segments {self.segment} {block.sight}"]
        q, k, v = self.project(block, x, plan)
        queries, keys, values = q, k, v
        if cache is not None:
            both, values = cache.write(torch.cat([k, q], 1), v, segment.shape[1])
            keys, queries = both.split([block.kv_heads, block.heads], 1)
        keys, values = (t.repeat_interleave(block.heads // block.kv_heads, 1) for t in (keys, values))
        keys, values = with_summaries(queries, keys, values, segment, number)
        mixed = self.attend(block, q, keys, values, mask, plan).transpose(1, 2).reshape(x.shape[0], -1)
        return block.out(block.parts.head_choice.weigh(block, x, plan.routing.sort(mixed), plan), plan.routing)

    def flops(self, block: Layer, batch: Batch) -> int:
        """Pairs of one segment, of tokens and summaries, and 4 H K a token to make these."""
        segment, number = self._counted(batch)
        sizes = torch.stack([row.bincount(minlength=number) for row in segment])
        pairs = int(sizes.square().sum()) + segment.numel() * sizes.shape[1] + segment.numel()
        return self._flops(block, batch, block.parts.head_choice.active(block), pairs)

    def executed_flops(self, block: Layer, batch: Batch) -> int:
        segment, number = self._counted(batch)
        pairs = segment.numel() * (segment.shape[1] + number + 1)
        return self._flops(block, batch, block.heads, pairs)


def segments(key: Places, most: int) -> Tensor:
    """(B, N) the number of each token's segment in its row; most: the tokens of a run."""
    begins = (key.document.diff(dim=1) != 0) | (key.block.diff(dim=1) != 0)
    begins = torch.nn.functional.pad(begins, (1, 0), value=True)
    place = torch.arange(begins.shape[1], device=begins.device)
    first = torch.where(begins, place, 0).cummax(1).values  # where a token's run begins
    cut = (key.block == PADDING) & ((place - first) % most == 0)
    return (begins | cut).long().cumsum(1) - 1


def with_summaries(q: Tensor, k: Tensor, v: Tensor, segment: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """q, k, v (B, H, N, K) -> keys and values (B, H, N + R, K). Sums over a segment are made in fp32 at least."""
    wide = torch.promote_types(k.dtype, torch.float32)
    at = segment[:, None, :, None].expand(k.shape)
    none = k.new_zeros(*k.shape[:2], number, k.shape[3])
    top_q, top_k = (none.scatter_reduce(2, at, t, "amax", include_self=False) for t in (q, k))
    score = (top_q.gather(2, at) * k).to(wide).sum(-1, keepdim=True) * k.shape[3] ** -0.5
    none = none.to(wide)
    highest = none[..., :1].scatter_reduce(2, at[..., :1], score.detach(), "amax", include_self=False)
    weight = torch.exp(score - highest.gather(2, at[..., :1]))
    total = none[..., :1].scatter_add(2, at[..., :1], weight)
    summary = none.scatter_add(2, at, weight * v) / total.clamp_min(torch.finfo(wide).tiny)
    return torch.cat([k, top_k], 2), torch.cat([v, summary.to(v.dtype)], 2)
