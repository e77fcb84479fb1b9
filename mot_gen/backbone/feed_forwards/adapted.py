"""A feed-forward with an adapter beside it, to be trained while the rest is frozen; see `adapters`.

    gated    FFN(x + a(x))        routed    FFN(x) + a(x)

The unit has the names that it would have alone, so that `training.init` gives it the weights of a model without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.adapters import GatedAdapter, RoutedAdapter, beside
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.named_parts import read_part
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Owned
from mot_gen.errors import nearest

ADAPTERS = ("gated", "routed")


@dataclass(frozen=True)
class FeedForward(parts.FeedForward):
    """unit: what is adapted, `gated` or `plain`, with its options. adapter: "gated" or "routed". rank: r. choices,
    chosen: of routed ones, how many there are and how many a token takes."""

    unit: Any = "gated"
    adapter: str = "gated"
    rank: int = 8
    choices: int = 4
    chosen: int = 2

    untied = ("ffn", "adapter")

    @property
    def ffn_dim(self) -> int:
        return self.unit.ffn_dim

    def fit(self, config: Any) -> Self:
        self.require_counts("rank", "choices", "chosen")
        if self.adapter not in ADAPTERS:
            raise self.refuse("adapter", f"{self.adapter!r} is not known" + nearest(self.adapter, ADAPTERS))
        if self.chosen > self.choices:
            raise self.refuse("chosen", f"must be from 1 to choices, {self.choices}, got {self.chosen}")
        unit = read_part("feed_forward", self.unit, vars(config), f"{self.where}.unit")
        if not unit.matrices:
            raise self.refuse("unit", "takes gated or plain")
        return replace(self, unit=unit.fit(config))

    def check(self, config: Any, towers: Sequence[str]) -> None:
        self.refuse_experts(config)
        if config.widths:
            raise self.refuse("kind", "adapted needs towers of one width; drop backbone.widths")

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
