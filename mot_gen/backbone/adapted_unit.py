"""What feed-forwards with an adapter beside them share: AdaptedUnit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mot_gen.backbone import parts
from mot_gen.backbone.named_parts import read_part


@dataclass(frozen=True)
class AdaptedUnit(parts.FeedForward):
    """unit: what is adapted, `gated` or `plain`, with its options. rank: r of an adapter.

    The unit has the names that it would have alone, so that `training.init` gives it the weights of a model without an
    adapter.
    """

    unit: Any = "gated"
    rank: int = 8

    untied = ("ffn", "adapter")

    @property
    def ffn_dim(self) -> int:
        return self.unit.ffn_dim

    def fitted_unit(self, config: Any) -> parts.FeedForward:
        """The unit with what the config leaves open. InputError for one that cannot be adapted."""
        unit = read_part("feed_forward", self.unit, vars(config), f"{self.where}.unit")
        if not unit.matrices:
            raise self.refuse("unit", "takes gated or plain")
        return unit.fit(config)

    def check(self, config: Any, towers: Sequence[str]) -> None:
        self.refuse_experts(config)
        if config.widths:
            raise self.refuse("kind", "adapters need towers of one width; drop backbone.widths")
