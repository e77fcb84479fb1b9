"""PolyNorm (PolyCom, arXiv 2411.03884): c n(x^3) + s n(x^2) + l n(x) + b, n(x) = x / rms(x) over the hidden channels.

It is meant for the feed-forward `plain`: `feed_forward: plain, activation: poly_norm`. Of experts each norm is over the
expert's own channels; towers of different widths have none of one width, and are refused.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.polynomial import Polynomial


class PolyNorm(Polynomial):
    """Powers of x, each divided by its root mean square."""

    def powers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cube, square, linear = (F.rms_norm(power, power.shape[-1:], eps=1e-6) for power in (x**3, x**2, x))
        return cube, square, linear


class Activation(parts.Activation):
    """It has no options."""

    def check(self, config: Any, towers: Sequence[str]) -> None:
        if config.widths:
            raise self.refuse("kind", "poly_norm has no norm for towers of different widths; drop backbone.widths")

    def module(self, owners: Owners) -> nn.Module:
        return PolyNorm.owned(owners)
