"""A query sees every key of its document that does not come later, and all of its own bidirectional span
(Transfusion, arXiv 2408.11039, Figure 4)."""

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.attention import Places, sees


class Reach(parts.Reach):
    """It has no options."""

    grows = True

    def sees(self, query: Places, key: Places) -> Tensor:
        return sees(query, key)
