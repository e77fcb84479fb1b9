"""How much better each sample is than the others of its prompt: advantages (GRPO, Shao et al. 2024, arXiv 2402.03300).

Shapes: P prompts, G samples of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-4  # so that rewards which differ by rounding alone do not become large


def advantages(rewards: Tensor, divide: bool = True) -> Tensor:
    """rewards (P, G), NaN where a sample has none -> A = (r - mean) / (std + 1e-4) by row, 0 where there is no reward.

    divide: False leaves r - mean (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783).
    """
    known = rewards.isfinite()
    count = known.sum(1, keepdim=True)
    kept = torch.where(known, rewards, 0.0)
    centred = torch.where(known, rewards - kept.sum(1, keepdim=True) / count.clamp_min(1), 0.0)
    if not divide:
        return centred
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)
    return centred / (variance.sqrt() + EPS)


def equal_rows(rewards: Tensor) -> Tensor:
    """Which rows of rewards (P, G) teach nothing, since all that are known in them are equal: (P,) bool."""
    low = torch.where(rewards.isnan(), torch.inf, rewards).amin(1)
    high = torch.where(rewards.isnan(), -torch.inf, rewards).amax(1)
    return high <= low
