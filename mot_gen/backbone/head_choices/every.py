"""Every token uses every head."""

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Plan
from mot_gen.backbone.parts import Layer


class HeadChoice(parts.HeadChoice):
    """It has no options."""

    def weigh(self, block: Layer, x: Tensor, mixed: Tensor, plan: Plan) -> Tensor:
        return mixed
