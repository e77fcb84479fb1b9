"""Global attention: Places, in_one_block, sees (the mask rule), dense_mask, block_mask, attend, scores_of, weigh.

The rule (Transfusion, Figure 4): a query sees a key of the same document that does not come later, or that belongs to
the same block: a bidirectional span, or one scale of a span that has several. It is written once, as `sees`: of places
that are broadcast it is the dense mask of SDPA, of those that `create_block_mask` asks for it is FlexAttention's.

Shapes: B rows, S slots, Q queries, K keys, H heads, G key/value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as once

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.sequence import PADDING, Layout

EMPTY = PADDING - 1  # the document of a cache slot that was never written: no query, padding included, sees it


@dataclass
class Places:
    """What the mask rule reads of each slot; (B, S) int64 each.

    document: its document.
    index: its place in the row.
    block: its span if that is bidirectional, or its scale, else PADDING.
    alone: bool, whether only its own block sees it; None: no slot is so.
    """

    document: Tensor
    index: Tensor
    block: Tensor
    alone: Tensor | None = None

    @classmethod
    def of(cls, layout: Layout, bidirectional: Tensor, start: Tensor | None = None) -> Places:
        """Places of a layout. bidirectional: (modalities,) bool. start: (B,) the rows' first indices, 0 by default."""
        index = torch.arange(layout.shape[1], device=layout.document.device).expand(layout.shape)
        if start is not None:
            index = index + start[:, None]
        block = layout.block
        if block is None:
            block = torch.where(bidirectional[layout.modality], layout.span, PADDING)
        return cls(layout.document, index, block, layout.alone)

    def __getitem__(self, at) -> Places:
        alone = None if self.alone is None else self.alone[at]
        return Places(self.document[at], self.index[at], self.block[at], alone)


def in_one_block(query: Places, key: Places) -> Tensor:
    """Whether two tokens belong to the same bidirectional span: bool, of places that broadcast."""
    return (query.document == key.document) & (query.block == key.block) & (query.block != PADDING)


def sees(query: Places, key: Places) -> Tensor:
    """The mask rule: bool, of places that broadcast against one another."""
    same_block = (query.block == key.block) & (query.block != PADDING)
    earlier = query.index >= key.index
    if key.alone is not None:
        earlier = earlier & ~key.alone
    return (query.document == key.document) & (earlier | same_block)


Rule = Callable[[Places, Places], Tensor]


def dense_mask(query: Places, key: Places, rule: Rule = sees) -> Tensor:
    """(B, 1, Q, K) float mask, 0 where visible and -inf elsewhere; SDPA on a CPU is faster with it than with bool."""
    hidden = rule(query[:, :, None], key[:, None]).logical_not_()
    return torch.zeros_like(hidden, dtype=torch.float32).masked_fill_(hidden, float("-inf"))[:, None]


def block_mask(places: Places, rule: Rule = sees):
    """FlexAttention's BlockMask for self-attention of a packed batch; S should be a multiple of 128."""

    def visible(b, h, q, kv):
        return rule(places[b, q], places[b, kv])

    batch, length = places.index.shape
    make = _create_block_mask(places.index.is_cuda)
    return make(visible, batch, None, length, length, device=places.index.device)


def attend(q: Tensor, k: Tensor, v: Tensor, mask) -> Tensor:
    """q (B, H, Q, D), k and v (B, G, K, D) with G dividing H -> (B, H, Q, D); scale 1 / sqrt(D).

    mask: a dense float mask for SDPA, or a BlockMask for FlexAttention.
    """
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, Tensor):
        if q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad:
            return _attend_by_products(q, k, v, mask.to(q.dtype))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), enable_gqa=grouped)
    return _flex_attention(q.is_cuda)(q, k, v, block_mask=mask, enable_gqa=grouped)


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    """q (B, H, Q, D), k (B, G, K, D) -> (B, H, Q, K), q k / sqrt(D), for mixers that need them in memory."""
    grouped = q.unflatten(1, (k.shape[1], -1))  # heads that share keys stand together
    return (grouped @ k[:, :, None].transpose(-2, -1)).flatten(1, 2) * q.shape[-1] ** -0.5


def weigh(weights: Tensor, v: Tensor) -> Tensor:
    """weights (B, H, Q, K), v (B, G, K, D) -> (B, H, Q, D)."""
    return (weights.unflatten(1, (v.shape[1], -1)) @ v[:, :, None]).flatten(1, 2)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention with its scores in memory: in bf16 SDPA, forward and backward, takes a CPU twice as long."""
    batch, heads, queries, width = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1).flatten(0, 1) for x in (k, v))
    mask = mask.expand(batch, heads, queries, -1).flatten(0, 1)
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.transpose(1, 2), alpha=width**-0.5)
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(q.shape)


@once
def _flex_attention(compiled: bool):
    from torch.nn.attention.flex_attention import flex_attention

    # Eager FlexAttention materialises the scores, so it is compiled where it is meant to run.
    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention


@once
def _create_block_mask(compiled: bool):
    from torch.nn.attention.flex_attention import create_block_mask

    # Eager, it would evaluate the rule for every pair of slots, in memory.
    return torch.compile(create_block_mask) if compiled else create_block_mask
