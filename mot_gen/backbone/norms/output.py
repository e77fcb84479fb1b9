"""x + norm(f(x)), as in Chameleon (arXiv 2405.09818) and Mixture-of-Transformers: the norm comes last."""

from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.routing import Routing


class Norm(parts.Norm):
    """It has no options."""

    def after(self, norm: nn.Module, y: Tensor, routing: Routing) -> Tensor:
        return norm(y, routing)
