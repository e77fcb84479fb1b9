"""No feed-forward: a layer is its mixer alone, as in Mamba."""

from __future__ import annotations

from mot_gen.backbone import parts
from mot_gen.backbone.parts import Layer


class FeedForward(parts.FeedForward):
    """It has no options."""

    empty = True

    def modules(self, block: Layer) -> parts.Modules:
        return {}
