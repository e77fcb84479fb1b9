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
            expert = _drawn(pool.group, experts)
        order = expert.argsort(stable=True)
        return parts.Choice(order, logits.new_ones(len(order)), times_each(expert, experts))


def _drawn(group: Tensor, experts: int) -> Tensor:
    """(n,) an expert for each token, drawn once a document. group: (n,) the document of each token."""
    if group.is_cuda:  # the host would wait to know how many documents there are; so each token draws, and one counts
        first = torch.searchsorted(group.sort().values, group)
        return torch.randint(experts, group.shape, device=group.device)[first]
    return torch.randint(experts, (int(group.max()) + 1,), device=group.device)[group]
