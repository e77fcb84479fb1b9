"""Each token takes its `top_k` best experts, with no capacity and nothing dropped.

Losses keep the load even (weighted by a pool's `balance_weight`) and the scores small (`z_weight`); others let experts
follow modalities (`information_weight`) or change slowly over a picture (`smooth_weight`): see `router_losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.experts import router_losses
from mot_gen.backbone.experts.moe import WEIGHTS, best_experts
from mot_gen.backbone.experts.pools import Pool
from mot_gen.errors import nearest


@dataclass(frozen=True)
class Router(parts.Router):
    """top_k: experts of a token. weight: of what they make of it: their "softmax" score over all experts; "scaled", so
    that the mean is 1 (top_k * score / sum); "renormalised", so that the sum is 1; or "one"."""

    top_k: int = 1
    z_weight: float = 0.001
    weight: str = "softmax"
    information_weight: float = 0.0
    smooth_weight: float = 0.0

    def fit(self, config: Any) -> Self:
        if self.weight not in WEIGHTS:
            raise self.refuse("weight", f"{self.weight!r} is not known" + nearest(self.weight, WEIGHTS))
        for option in ("information_weight", "smooth_weight"):
            if getattr(self, option) < 0:
                raise self.refuse(option, f"must be at least 0, got {getattr(self, option)}")
        return self

    @property
    def on_grid(self) -> bool:
        return self.smooth_weight > 0

    @property
    def taken(self) -> int:
        return self.top_k

    def choose(self, logits: Tensor, pool: Pool) -> parts.Choice:
        score = logits.softmax(-1)
        choice, expert = best_experts(score, self.top_k, self.weight)
        if torch.is_grad_enabled():
            choice.loss = self._loss(logits, score, expert, pool)
        return choice

    def _loss(self, logits: Tensor, score: Tensor, expert: Tensor, pool: Pool) -> Tensor:
        loss = pool.balance_weight * router_losses.balance(score, expert, pool)
        loss = loss + self.z_weight * router_losses.squares(logits, pool)
        if self.information_weight:
            loss = loss + self.information_weight * router_losses.mutual_information(score, pool)
        if self.smooth_weight:
            loss = loss + self.smooth_weight * router_losses.roughness(logits, pool)
        return loss
