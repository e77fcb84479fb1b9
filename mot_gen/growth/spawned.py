"""Growth: experts spawned from one trained feed-forward (EvoMoE, arXiv 2112.14397).

Every expert begins as a copy, of which a share of the hidden channels, drawn for each expert, is set to zero, so that
they differ; the share that the paper masks could not be read. Routers begin at zero. Unmasked, the weights of equal
experts add up to 1, and the model computes what it did.

Shapes: E experts, F feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mot_gen.errors import InputError, require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel


@dataclass(frozen=True)
class Growth(base.Growth):
    """experts: E. top_k: of a token. masked: the share of an expert's channels that is set to zero. gate:
    "renormalised" (token choice) or "gumbel" (dense at first, then sparse)."""

    experts: int = 4
    top_k: int = 1
    masked: float = 0.0
    gate: str = "renormalised"
    seed: int = 0

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        width = base.require_gated(model, "spawned", cut=True)
        if self.experts < 2 or not 1 <= self.top_k <= self.experts:
            raise InputError(f"experts={self.experts}: must be 2 or more, and top_k from 1 to that, got {self.top_k}")
        require(0 <= self.masked < 1, f"masked={self.masked}: must be from 0 to below 1")
        routers = {
            "renormalised": {"kind": "token_choice", "top_k": self.top_k, "weight": "renormalised"},
            "gumbel": {"kind": "gumbel"},
        }
        require(self.gate in routers, f"gate={self.gate}: must be one of {', '.join(routers)}")
        made = base.rebuild(model, experts=self.experts, router=routers[self.gate])
        generator = torch.Generator().manual_seed(self.seed)
        for own, parent in zip(made.backbone.blocks, base.blocks_of(model)):
            own.ffn.router.zero_()
            own.ffn.feed_forward.gate_up.weight.copy_(parent.ffn.gate_up.weight.repeat_interleave(self.experts, 0))
            down = parent.ffn.down.weight.repeat_interleave(self.experts, 0)
            kept = torch.rand(len(down), 1, width, generator=generator) >= self.masked
            own.ffn.feed_forward.down.weight.copy_(down * kept.to(down.device))
        return made
