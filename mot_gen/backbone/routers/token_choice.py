"""Each token takes its `top_k` best experts, with no capacity and nothing dropped.

Two losses keep the load even and the scores small: E * sum_e f_e P_e (arXiv 2101.03961), f the share of assignments and
P the mean score, weighted by a pool's `balance_weight`; and mean(logsumexp(logits)^2) (arXiv 2202.08906), weighted by
`z_weight`. Padding counts in neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.moe import best_experts
from mot_gen.backbone.pools import Pool


@dataclass(frozen=True)
class Router(parts.Router):
    """top_k: experts of a token."""

    top_k: int = 1
    z_weight: float = 0.001

    @property
    def taken(self) -> int:
        return self.top_k

    def choose(self, logits: Tensor, pool: Pool) -> parts.Choice:
        score = logits.softmax(-1)
        choice, expert = best_experts(score, self.top_k)
        if torch.is_grad_enabled():
            choice.loss = self._loss(logits, score, expert, pool)
        return choice

    def _loss(self, logits: Tensor, score: Tensor, expert: Tensor, pool: Pool) -> Tensor:
        real = pool.real.float() / pool.real.sum().clamp_min(1)
        chosen = F.one_hot(expert, score.shape[1]).float().mean(1)
        balance = score.shape[1] * (real @ chosen * (real @ score)).sum()
        z = real @ logits.logsumexp(-1).square()
        return pool.balance_weight * balance + self.z_weight * z
