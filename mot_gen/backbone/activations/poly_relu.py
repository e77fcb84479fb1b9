"""PolyReLU (PolyCom, arXiv 2411.03884): c r^3 + s r^2 + l r + b with r = max(x, 0) and four learned numbers.

It is meant for the feed-forward `plain`: `feed_forward: plain, activation: poly_relu`.
"""

from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.polynomial import Polynomial


class PolyReLU(Polynomial):
    """Powers of max(x, 0)."""

    def powers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.relu()
        return x**3, x**2, x


class Activation(parts.Activation):
    """It has no options."""

    def module(self, owners: Owners) -> nn.Module:
        return PolyReLU.owned(owners)
