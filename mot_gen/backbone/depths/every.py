"""Every token passes through every layer."""

from typing import Any

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Plan
from mot_gen.backbone.next_token import NextToken
from mot_gen.backbone.parts import Layer


class Depth(parts.Depth):
    """It has no options."""

    def follow(self, block: Layer, step: NextToken) -> bool:
        return True

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        return block.feed(block.mix(x, plan, cache), plan)
