"""Norms of heads' queries and keys: head_norm; HeadLayerNorm, with a weight and bias for each head (Chameleon).

Shapes: T tokens, H heads, K head width, E towers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mot_gen.backbone.owners import Owners, ones, zeros
from mot_gen.backbone.routing import Owned, Routing, rows_in_sequence, rows_of


class HeadLayerNorm(Owned):
    """(x - mean) / std over a head's width, times weight (E, H, K), plus bias (E, H, K). eps is Chameleon's."""

    eps = 1e-5

    def __init__(self, heads: int, width: int, towers: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(towers, heads, width))
        self.bias = nn.Parameter(torch.zeros(towers, heads, width))

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """(T, H, K) in tower order -> the same."""
        return self._scaled(x, rows_of(self.weight, routing), rows_of(self.bias, routing))

    def in_sequence(self, x: Tensor, routing: Routing) -> Tensor:
        """(T, H, K) in sequence order -> the same."""
        return self._scaled(x, rows_in_sequence(self.weight, routing), rows_in_sequence(self.bias, routing))

    def _scaled(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normed = F.layer_norm(x.float(), x.shape[-1:], eps=self.eps)
        return (normed * weight + bias).to(x.dtype)


def head_norm(kind: bool | str, owners: Owners, heads: int, width: int) -> Owned | None:
    """The norm of the queries or keys of so many heads that `HeadOptions.qk_norm` asks for; None for none."""
    if kind == "layer":
        module = HeadLayerNorm(heads, width, owners.sets("qk_norm"))
        return owners.own(module, "qk_norm", weight=ones, bias=zeros)
    return owners.norm_of("qk_norm", width) if kind else None
