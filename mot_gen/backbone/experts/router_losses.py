"""What routers may add to the training loss, of a pool's scores: balance, squares, mutual_information, roughness.

Padding counts in none of them.

Shapes: n tokens of a pool, E experts, k of them for each token, M modalities.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.backbone.experts.pools import Pool


def _shares(pool: Pool) -> Tensor:
    """(n,) weights of a mean over the pool's tokens."""
    return pool.real.float() / pool.real.sum().clamp_min(1)


def balance(score: Tensor, expert: Tensor, pool: Pool) -> Tensor:
    """E * sum_e f_e P_e (arXiv 2101.03961), f the share of assignments and P the mean score. expert: (n, k)."""
    chosen = F.one_hot(expert, score.shape[1]).float().mean(1)
    real = _shares(pool)
    return score.shape[1] * (real @ chosen * (real @ score)).sum()


def squares(logits: Tensor, pool: Pool) -> Tensor:
    """mean(logsumexp(logits)^2) (arXiv 2202.08906), which keeps scores small."""
    return _shares(pool) @ logits.logsumexp(-1).square()


def mutual_information(score: Tensor, pool: Pool) -> Tensor:
    """-I(modality; expert) (arXiv 2306.04640 and 2212.08066): least where each modality has experts of its own.

    With p(m, e) the mean score over the pool's tokens: sum of p(m, e) log(p(m) p(e) / p(m, e)).
    """
    number = pool.modalities or -1  # -1: as many as occur, which the host waits for
    modality = F.one_hot(pool.modality, number).float() * _shares(pool)[:, None]
    joint = modality.t() @ score  # (M, E)
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return torch.special.xlogy(joint, apart.clamp_min(1e-20) / joint.clamp_min(1e-20)).sum()


def roughness(logits: Tensor, pool: Pool) -> Tensor:
    """KL(p_i || p_j) between each token of a picture and its neighbours to the right and below, on the average
    (GNT-MOVE, arXiv 2308.11793, between neighbouring patches): least where routers change slowly over a picture."""
    there = pool.beside >= 0  # (n, 2)
    log = logits.log_softmax(-1)[:, None]
    other = log[pool.beside.clamp_min(0), 0]
    apart = (log.exp() * (log - other)).sum(-1)
    return torch.where(there, apart, 0.0).sum() / there.sum().clamp_min(1)
