"""Queries, keys and values out of one projection: queries_keys_values.

Shapes: T tokens in sequence order, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.backbone.batch import Plan
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.rms_norm import UntiedRMSNorm, norm_of_heads
from mot_gen.backbone.rotary import rotate
from mot_gen.backbone.routing import rows_of


def queries_keys_values(block: Layer, qkv: Tensor, plan: Plan) -> Sequence[Tensor]:
    """qkv (T, H + 2 G, K) -> q (T, H, K), k and v (T, G, K); q and k normed and turned, in float32, then as v."""
    heads, kv_heads, rotation = block.heads, block.kv_heads, plan.made[block.turning]
    if _together(block, plan):
        qk, v = qkv.split_with_sizes([heads + kv_heads, kv_heads], 1)
        qk = qk.float()
        if block.q_norm is not None:
            qk = norm_of_heads(qk, _weights(block, plan), block.q_norm.eps)
        q, k = rotate(qk, rotation).to(v.dtype).split_with_sizes([heads, kv_heads], 1)
        return q, k, v
    q, k, v = qkv.split_with_sizes([heads, kv_heads, kv_heads], 1)
    q, k = q.float(), k.float()  # once for the norm and the rotation
    if block.q_norm is not None:
        q, k = block.q_norm.in_sequence(q, plan.routing), block.k_norm.in_sequence(k, plan.routing)
    return rotate(q, rotation).to(v.dtype), rotate(k, rotation).to(v.dtype), v


def _together(block: Layer, plan: Plan) -> bool:
    """Whether queries and keys are normed and turned as one: they are of one tower, and no gradient is wanted."""
    alike = block.q_norm is None or isinstance(block.q_norm, UntiedRMSNorm)
    return alike and plan.routing.only is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _weights(block: Layer, plan: Plan) -> Tensor:
    """(H + G, K) the norms' weights, a row a head."""

    def make() -> Tensor:
        q, k = (rows_of(norm.factors, plan.routing).float() for norm in (block.q_norm, block.k_norm))
        return torch.cat([q.expand(block.heads, -1), k.expand(block.kv_heads, -1)])

    return plan.once(f"qk_norm {block.number}", make)
