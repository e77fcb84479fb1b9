"""Experts drawn by chance (THOR, arXiv 2110.04260): nothing is scored and no load needs to be kept even.

While it learns, each document of a batch draws one expert in each layer; `training.consistency` makes the experts
agree. Afterwards layer l takes expert l mod E, one fixed draw, so that a result never depends on chance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.experts.moe import times_each
from mot_gen.backbone.experts.pools import Pool


class Router(parts.Router):
    """It has no options."""

    scores = False

    def choose(self, logits: Tensor, pool: Pool) -> parts.Choice:
        experts = logits.shape[1]
        expert = torch.full_like(pool.group, pool.state.number % experts)
        if pool.state.learns and len(expert):
            drawn = torch.randint(experts, (int(pool.group.max()) + 1,), device=expert.device)
            expert = drawn[pool.group]
        order = expert.argsort(stable=True)
        return parts.Choice(order, logits.new_ones(len(order)), times_each(expert, experts))
