"""A feed-forward with an adapter beside it, to be trained while the rest is frozen; see `adapters`.

    gated    FFN(x + a(x))        routed    FFN(x) + a(x)

x: what the feed-forward is given. a: the adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.adapted_unit import AdaptedUnit
from mot_gen.backbone.adapters import GatedAdapter, RoutedAdapter, beside
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Owned
from mot_gen.errors import nearest

ADAPTERS = ("gated", "routed")


@dataclass(frozen=True)
class FeedForward(AdaptedUnit):
    """adapter: "gated" or "routed". choices, chosen: of routed ones, how many there are and how many a token takes. The
    others: see `AdaptedUnit`."""

    adapter: str = "gated"
    choices: int = 4
    chosen: int = 2

    def fit(self, config: Any) -> Self:
        self.require_counts("rank", "choices", "chosen")
        if self.adapter not in ADAPTERS:
            raise self.refuse("adapter", f"{self.adapter!r} is not known" + nearest(self.adapter, ADAPTERS))
        if self.chosen > self.choices:
            raise self.refuse("chosen", f"must be from 1 to choices, {self.choices}, got {self.chosen}")
        return replace(self, unit=self.fitted_unit(config))

    def modules(self, block: Layer) -> parts.Modules:
        owners = block.owners
        side: Owned = GatedAdapter(owners, "adapter", self.rank)
        if self.adapter == "routed":
            side = RoutedAdapter(owners, "adapter", self.rank, self.choices, self.chosen)
        return {"ffn": self.unit.unit(block, owners), "ffn_side": beside(side)}

    def repeats(self, block: Layer) -> bool:
        return self.adapter == "gated"

    def forward(self, block: Layer, x: Tensor, plan: Plan) -> Tensor:
        added = block.ffn_side.adapter(x, plan.routing)
        if self.adapter == "gated":
            return block.ffn(x + added.to(x.dtype), plan.routing)
        y = block.ffn(x, plan.routing)
        return y + added.to(y.dtype)

    def flops(self, block: Layer, batch: Batch) -> int:
        """Beside the unit's, 6 D r of a gated adapter; of a routed one 4 D r for each expert taken, and the router."""
        dim, tokens = block.owners.dim, batch.layout.modality.numel()
        routed = 2 * self.chosen * self.rank + self.choices
        each = 3 * self.rank if self.adapter == "gated" else routed
        return self.unit.flops(block, batch) + 2 * dim * tokens * each

    def activations(self, block: Layer, batch: Batch) -> float:
        """The unit's, and of the adapter its input, its hidden channels and its output."""
        tokens, taken = batch.layout.modality.numel(), self.chosen if self.adapter == "routed" else 1
        return self.unit.activations(block, batch) + tokens * taken * (3 * self.rank + 2 * block.owners.dim)
