"""GRPO for tokens (Shao et al. 2024, arXiv 2402.03300): token_log_probs, clipped_loss, k3.

Shapes: M tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_log_probs(logits: Tensor, ids: Tensor, forbidden: Tensor, temperature: float = 1.0) -> Tensor:
    """logits (M, V), ids (M,), forbidden (M, V) bool -> (M,) log-probabilities of the ids as they were sampled: at this
    temperature, among what was allowed."""
    scores = (logits.float() / temperature).masked_fill(forbidden, -torch.inf)
    return scores.gather(-1, ids[:, None])[:, 0] - scores.logsumexp(-1)


def clipped_loss(log_ratio: Tensor, advantage: Tensor, clip: float, clip_high: float | None = None) -> Tensor:
    """The loss of each action: -min(r A, clamp(r, 1 - clip, 1 + clip_high) A), r = exp(log_ratio) (PPO, Schulman et al.
    2017). clip_high: as `clip` unless given; a higher one lets rare actions grow (DAPO, arXiv 2503.14476)."""
    ratio = log_ratio.exp()
    limited = ratio.clamp(*_limits(clip, clip_high))
    return -torch.minimum(ratio * advantage, limited * advantage)


def k3(log_prob: Tensor, reference: Tensor) -> Tensor:
    """An unbiased estimate, never negative, of KL(now || reference) from samples of now: exp(d) - d - 1, d = log ref -
    log now (Schulman 2020)."""
    difference = reference - log_prob
    return difference.exp() - difference - 1


def was_clipped(log_ratio: Tensor, advantage: Tensor, clip: float, clip_high: float | None = None) -> Tensor:
    """(M,) bool: where the limit holds, so that the action has no gradient."""
    ratio = log_ratio.detach().exp()
    low, high = _limits(clip, clip_high)
    return ((ratio > high) & (advantage > 0)) | ((ratio < low) & (advantage < 0))


def _limits(clip: float, clip_high: float | None) -> tuple[float, float]:
    """The least and the largest ratio that still counts as it is."""
    if clip_high is None:
        clip_high = clip
    return 1 - clip, 1 + clip_high
