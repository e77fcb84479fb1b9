"""A learned polynomial of the hidden channels (PolyCom, arXiv 2411.03884): Polynomial, base of PolyReLU and PolyNorm.

Shapes: n tokens, F width of a feed-forward.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from mot_gen.backbone.owners import Owners, zeros
from mot_gen.backbone.routing import Owned, Routing, rows_of


def third(parameter: Tensor) -> None:
    parameter.fill_(1 / 3)


class Polynomial(Owned):
    """cubic * p3 + square * p2 + linear * p1 + constant, each factor one number a tower (or expert): (E,). Having one
    dimension they do not decay."""

    def __init__(self, sets: int):
        super().__init__()
        self.cubic, self.square, self.linear, self.constant = (nn.Parameter(torch.empty(sets)) for _ in range(4))

    @classmethod
    def owned(cls, owners: Owners) -> Self:
        """One that towers own as they own the feed-forward; it begins as the mean of the three powers."""
        module = cls(owners.sets("ffn"))
        return owners.own(module, "ffn", cubic=third, square=third, linear=third, constant=zeros)

    def powers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three terms of x (n, F), in fp32."""
        raise NotImplementedError

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, F) -> (n, F)."""
        cube, square, linear = self.powers(x.float())
        factors = (rows_of(p[:, None], routing) for p in (self.cubic, self.square, self.linear, self.constant))
        third, second, first, constant = factors
        return (third * cube + second * square + first * linear + constant).to(x.dtype)
