"""Two layers, down(activation(up(x))), as in the first transformer (arXiv 1706.03762).

Shapes: n tokens, D width of the model, F width of the unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.feed_forwards import gated
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Routing


@dataclass(frozen=True)
class FeedForward(gated.FeedForward):
    """ffn_dim: F; one and a half times a gated unit's when it is not given, so that it takes the same FLOPs."""

    matrices = 2

    def fit(self, config: Any) -> Self:
        fitted = super().fit(config)
        if self.ffn_dim is not None:
            return fitted
        assert fitted.ffn_dim is not None, "the gated unit's fit sets it"
        return replace(fitted, ffn_dim=fitted.ffn_dim * 3 // 2)

    def unit(self, block: Layer, owners: Owners, times: int = 1) -> nn.Module:
        assert self.ffn_dim is not None, "fit sets it"
        hidden = times * self.ffn_dim
        return TwoLayers(owners.up("ffn", hidden), owners.down("ffn", hidden), block.parts.activation, owners)


class TwoLayers(nn.Module):
    """learned: the activation's own parameters, or None."""

    def __init__(self, up: nn.Module, down: nn.Module, activation: parts.Activation, owners: Owners):
        super().__init__()
        self.up, self.down, self.activation = up, down, activation
        self.learned = activation.module(owners)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, D)."""
        return self.down(self.hidden_channels(x, routing), routing)

    def hidden_channels(self, x: Tensor, routing: Routing) -> Tensor:
        """x (n, D) -> (n, F), what goes down."""
        hidden = self.up(x, routing)
        if self.learned is None:
            return self.activation.function(hidden)
        return self.learned(hidden, routing)
