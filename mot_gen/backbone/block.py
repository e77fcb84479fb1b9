"""Block, one layer made of parts; and distinct, one block of each kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Plan
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.roles import Roles


class Block(parts.Layer):
    """One layer: a mixer and a feed-forward, each with its norm, joined to the residual stream."""

    def __init__(self, roles: Roles, owners: Owners, number: int, layers: int):
        super().__init__()
        self.parts, self.owners = roles.of_layer(number), owners
        self.number, self.layers = number, layers
        mixer, feed_forward = self.parts.mixer, self.parts.feed_forward
        self.add_module(mixer.norm, owners.norm(mixer.norm))
        self._add(mixer, self.parts.bias, self.parts.head_choice, self.parts.depth, self.parts.residual)
        if not feed_forward.empty:
            self.ffn_norm = owners.norm("ffn_norm")
            self._add(feed_forward)

    def _add(self, *added: parts.Part) -> None:
        """Take over the modules and parameters of parts, their initial values and who owns them."""
        for part in added:
            for name, module in part.modules(self).items():
                if isinstance(module, nn.Parameter):
                    self.register_parameter(name, module)
                else:
                    self.register_module(name, module)
            self.initial = {**self.initial, **part.initial(self)}
            self.owned_by = {**self.owned_by, **part.owned_by(self)}

    def forward(self, x: Tensor, plan: Plan, cache: Any = None) -> Tensor:
        """x (T, D) in tower order -> the same."""
        return self.parts.depth.forward(self, x, plan, cache)

    def mix(self, x: Tensor, plan: Plan, cache: Any) -> Tensor:
        """The mixer's sublayer: x with what its tokens read of one another added."""
        chosen, norm = self.parts, getattr(self, self.parts.mixer.norm)
        read = chosen.residual.read(self, x, "mixer")
        y = chosen.mixer.forward(self, chosen.norm.before(norm, read, plan.routing), plan, cache)
        return chosen.residual.add(self, x, chosen.norm.after(norm, y, plan.routing), "mixer")

    def feed(self, x: Tensor, plan: Plan, weight: Tensor | None = None) -> Tensor:
        """The feed-forward's sublayer: x with its output added. weight: (T, 1), which the output is multiplied by."""
        chosen = self.parts
        if chosen.feed_forward.empty:
            return x
        read = chosen.residual.read(self, x, "feed_forward")
        y = chosen.feed_forward.forward(self, chosen.norm.before(self.ffn_norm, read, plan.routing), plan)
        y = chosen.norm.after(self.ffn_norm, y, plan.routing)
        if weight is not None:
            y = y * weight
        return chosen.residual.add(self, x, y, "feed_forward")


def distinct(blocks: Iterable[parts.Layer]) -> list[parts.Layer]:
    """The first block of each set of parts. It derives from a batch what all blocks with these parts read.

    A layer that tokens skip is left out: it derives this itself, from the tokens that stay.
    """
    found: list[parts.Layer] = []
    for block in blocks:
        if not block.parts.depth.plans and all(block.parts != other.parts for other in found):
            found.append(block)
    return found
