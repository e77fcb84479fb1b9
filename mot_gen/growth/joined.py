"""Growth: the experts of two models in one (DeepSpeed MoE, arXiv 2109.10465). All else is the first model's.

Each pool holds the first model's experts, then the second's, and a token takes as many as in both together. A model
joined with itself computes what it did: every expert is there twice, with half of its score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mot_gen.errors import require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel


@dataclass(frozen=True)
class Growth(base.Growth):
    """It has no options."""

    needs_other = True

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        assert other is not None, "it needs another"
        _check(model, other)
        first, second = base.blocks_of(model), base.blocks_of(other)
        config = model.backbone.config
        number = config.experts + other.backbone.config.experts
        top_k = _taken(first) + _taken(second)
        made = base.rebuild(model, experts=number, router=_router(config.router, top_k))
        for own, one, two in zip(made.backbone.blocks, first, second):
            _join(own, one, two)
        return made


def _taken(blocks: Sequence[Any]) -> int:
    """How many experts a token takes."""
    return blocks[0].parts.feed_forward.router.taken


def _join(own: Any, first: Any, second: Any) -> None:
    """Put the experts of two layers into one, pool by pool, and their rows of the router likewise."""
    by_pool = (len(own.experts), -1)
    for name, parameter in own.ffn.named_parameters():
        if name.startswith("shared."):
            continue
        one = first.ffn.get_parameter(name).unflatten(0, by_pool)
        two = second.ffn.get_parameter(name).unflatten(0, by_pool)
        parameter.copy_(torch.cat([one, two], 1).flatten(0, 1))


def _check(model: MultimodalModel, other: MultimodalModel) -> None:
    """InputError unless both have experts, and are alike but for their number."""
    sparse = _has_experts(model) and _has_experts(other)
    require(sparse, "--grow joined: both models need experts, as many in every pool")
    alike = _shapes(model) == _shapes(other)
    require(alike, "--grow joined: the two models differ in their sizes; give two of one recipe")


def _has_experts(model: MultimodalModel) -> bool:
    """Whether every pool has the same number of experts, above one."""
    number = model.backbone.config.experts
    return isinstance(number, int) and number > 1


def _shapes(model: MultimodalModel) -> dict[str, torch.Size]:
    """The shapes of all parameters, without the dimension that experts are stacked along."""
    return {name: parameter.shape[1:] for name, parameter in model.named_parameters()}


def _router(given: str | dict, top_k: int) -> dict:
    """The router as it is stated, with as many experts of a token."""
    stated = {"kind": given} if isinstance(given, str) else dict(given)
    tokens_choose = stated["kind"] == "token_choice"
    require(tokens_choose, "--grow joined: is for backbone.router=token_choice; this model has another")
    return stated | {"top_k": top_k}
