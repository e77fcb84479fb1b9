"""x + f(norm(x)), as in Llama: the norm stands before the sublayer."""

from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.routing import Routing


class Norm(parts.Norm):
    """It has no options."""

    def before(self, norm: nn.Module, x: Tensor, routing: Routing) -> Tensor:
        return norm(x, routing)
