"""A feed-forward cut in slices of its hidden channels, of which a token uses some (Union of Experts, arXiv 2503.02495;
experts found in a dense feed-forward, arXiv 2310.10908).

The slices of F / E channels are experts whose outputs add up to the whole feed-forward's: with all of them in use, of
weight 1, nothing is left out. A token chooses them alone; the published choices, of a whole sequence or of its best
half, would see later tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from mot_gen.backbone.feed_forwards import experts
from mot_gen.backbone.named_parts import read_part


@dataclass(frozen=True)
class FeedForward(experts.FeedForward):
    """ffn_dim: F, as of `gated`.
    slices: E.
    used: of a token.
    weight: of a slice's output, see `routers.token_choice`; "scaled" lets the router learn, "one" is the plain sum.
    """

    ffn_dim: int | None = None  # type: ignore[assignment] # of all slices together, as the study solves for it
    slices: int = 4
    used: int = 2
    weight: str = "scaled"

    @property
    def step(self) -> int:
        return self.slices

    def fit(self, config: Any) -> Self:
        self.require_counts("slices", "used")
        self.refuse_experts(config)
        if self.used > self.slices:
            raise self.refuse("used", f"must be from 1 to the number of slices, {self.slices}, got {self.used}")
        whole = read_part("feed_forward", self.unit, vars(config) | {"ffn_dim": self.ffn_dim}, self.where)
        width = whole.fit(config).ffn_dim
        if width % self.slices:
            raise self.refuse("slices", f"{self.slices} must divide the width, {width}")
        router = {"kind": "token_choice", "top_k": self.used, "weight": self.weight}
        unit = {"kind": self.unit, "ffn_dim": width // self.slices}
        named = replace(self, experts=self.slices, router=router, unit=unit)
        return replace(super(FeedForward, named).fit(config), ffn_dim=width)
