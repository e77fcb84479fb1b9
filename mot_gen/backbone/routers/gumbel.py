"""A gate that begins dense and becomes sparse (EvoMoE's DTS gate, arXiv 2112.14397).

    g = softmax((W x + Gumbel noise) / t)        experts with g above `threshold` run, weighed by g

The temperature t falls from `hottest` to `coldest` over the training, so that all experts run at first and one of them
at the end. Afterwards a token takes its best expert alone, weighed by its score at `coldest`, without noise.
E^2 * mean(P f) keeps the load even, P the mean score of an expert and f the share of tokens that it has. Costs in
training are counted for all experts, as at the start, so that a study charges too much rather than too little.

Shapes: n tokens of a pool, E experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.experts.moe import best_experts
from mot_gen.backbone.experts.pools import Pool
from mot_gen.errors import nearest

COURSES = ("linear", "exponential")


@dataclass(frozen=True)
class Router(parts.Router):
    """hottest, coldest: the temperature at the start and at the end. course: "linear" or "exponential"."""

    hottest: float = 2.0
    coldest: float = 0.3
    course: str = "linear"
    threshold: float = 0.001

    def fit(self, config: Any) -> Self:
        if not 0 < self.coldest <= self.hottest < math.inf:
            raise self.refuse("coldest", f"must be above 0 and at most hottest, {self.hottest}, got {self.coldest}")
        if not 0 <= self.threshold < 1:
            raise self.refuse("threshold", f"must be from 0 to below 1, got {self.threshold}")
        if self.course not in COURSES:
            raise self.refuse("course", f"{self.course!r} is not known" + nearest(self.course, COURSES))
        return self

    def charged(self, number: int, learns: bool) -> int:
        return number if learns else 1

    def temperature(self, progress: float) -> float:
        """progress: from 0, the start of training, to 1."""
        if self.course == "linear":
            return self.hottest + progress * (self.coldest - self.hottest)
        return self.hottest * (self.coldest / self.hottest) ** progress

    def choose(self, logits: Tensor, pool: Pool) -> parts.Choice:
        if not pool.state.learns:
            return best_experts((logits / self.coldest).softmax(-1), 1)[0]
        noise = -torch.empty_like(logits).exponential_().clamp_min(torch.finfo(logits.dtype).tiny).log()
        gate = ((logits + noise) / self.temperature(pool.state.progress)).softmax(-1)
        taken = gate > self.threshold
        expert, token = taken.t().nonzero(as_tuple=True)
        choice = parts.Choice(token, gate[token, expert], taken.sum(0))
        if torch.is_grad_enabled():
            choice.loss = pool.balance_weight * _balance(gate, taken, pool)
        return choice


def _balance(gate: Tensor, taken: Tensor, pool: Pool) -> Tensor:
    """E^2 * mean over experts of P f; padding does not count."""
    real = pool.real.float() / pool.real.sum().clamp_min(1)
    return gate.shape[1] * (real @ gate * (real @ taken.float())).sum()
