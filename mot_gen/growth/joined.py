"""Growth: the experts of two models in one (DeepSpeed MoE, arXiv 2109.10465). All else is the first model's.

Each pool holds the first model's experts, then the second's, and a token takes as many as in both together. A model
joined with itself computes what it did: every expert is there twice, with half of its score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mot_gen.errors import InputError
from mot_gen.growth import parents
from mot_gen.model import MultimodalModel


@dataclass(frozen=True)
class Growth(parents.Growth):
    """It has no options."""

    needs_other = True

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        assert other is not None, "it needs another"
        configs = model.backbone.config, other.backbone.config
        numbers = [config.experts for config in configs]
        shapes = [{n: p.shape[1:] for n, p in each.named_parameters()} for each in (model, other)]
        if shapes[0] != shapes[1] or any(not isinstance(number, int) or number < 2 for number in numbers):
            raise InputError("--grow joined: both models need experts, and the same sizes otherwise")
        tops = [block.parts.feed_forward.router.taken for each in (model, other) for block in each.backbone.blocks[:1]]
        made = parents.rebuilt(model, experts=sum(numbers), router=_router(configs[0].router, sum(tops)))
        pairs = zip(parents.blocks_of(model), parents.blocks_of(other))
        for own, (first, second) in zip(made.backbone.blocks, pairs):
            both = [dict(block.ffn.named_parameters()) for block in (first, second)]
            for name, parameter in own.ffn.named_parameters():
                if name.startswith("shared."):
                    continue
                pools = [part[name].unflatten(0, (len(own.experts), -1)) for part in both]
                parameter.copy_(torch.cat(pools, 1).flatten(0, 1))
        return made


def _router(given: str | dict, top_k: int) -> dict:
    """The router as it is stated, with as many experts of a token."""
    stated = {"kind": given} if isinstance(given, str) else dict(given)
    if stated["kind"] != "token_choice":
        raise InputError("--grow joined: is for backbone.router=token_choice; this model has another")
    return stated | {"top_k": top_k}
