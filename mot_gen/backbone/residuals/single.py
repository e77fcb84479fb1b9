"""x + f(x): one stream, to which sublayers add."""

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.parts import Layer


class Residual(parts.Residual):
    """It has no options."""

    def add(self, block: Layer, x: Tensor, y: Tensor, sublayer: str) -> Tensor:
        return x + y
