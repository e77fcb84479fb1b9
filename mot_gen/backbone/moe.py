"""A feed-forward of several experts: Experts (its options), Pools, make_pools, MixtureOfExperts.

A *pool* is a tower's tokens, or all tokens where the feed-forward is not untied, and the experts among which they are
routed. A pool of one expert routes nothing. All experts of all pools are stacked, so that a layer is one grouped
product: MoE-4x (arXiv 2411.04996) is one pool of four, its hybrid a pool of four for text beside pools of one, and
routed groups by modality (Symbiotic-MoE, arXiv 2604.07753) are several pools of several. Shared experts, which all
tokens pass whatever their pool, may stand beside the routed ones (Symbiotic-MoE).

- *Expert choice* (arXiv 2202.09368): each of E experts takes the n / E tokens of a document, n long, that score
  highest with it. The load is even by construction; but whether a token is taken depends on later ones, so the layer
  is not causal. While generating there are no later tokens, and each token goes to its own best expert.
- *Token choice*: each token takes its `top_k` best experts, with no capacity and nothing dropped. Two losses keep the
  load even and the scores small: E * sum_e f_e P_e (arXiv 2101.03961), f the share of assignments and P the mean
  score, and mean(logsumexp(logits)^2) (arXiv 2202.08906).

Both weigh an expert's output by its softmax score over all experts of the pool.

Shapes: T tokens in tower order, n tokens of a pool, E experts of a pool, P assignments (a token to an expert), D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.routing import Routing
from mot_gen.sequence import PADDING, Layout


@dataclass(frozen=True)
class Experts:
    """How a pool's tokens meet its experts. router: "expert_choice" or "token_choice", of which alone the rest is.

    balance_weights: of each pool's balance loss.
    """

    router: str
    top_k: int
    balance_weights: Sequence[float]
    z_weight: float


@dataclass
class Pools:
    """What a layer of experts needs of a layout, made once per batch.

    counts: the pools' numbers of tokens. kept: for each pool of several experts under expert choice, (K,) int64 the
    places that one expert takes of its tokens sorted by document, then by falling score; None for other pools.
    group: (T,) a number of its own for each document of each row. real: (T,) bool, not padding.
    """

    counts: list[int]
    kept: list[Tensor | None]
    group: Tensor
    real: Tensor


def make_pools(
    layout: Layout, routing: Routing, counts: list[int], experts: Sequence[int], expert_choice: bool
) -> Pools:
    """Pools of `counts` tokens in tower order, with their numbers of experts."""
    document = layout.document
    row = torch.arange(len(document), device=document.device)[:, None] * (document.max() + 2)
    group = routing.sort((row + document - PADDING).flatten())
    parts = zip(group.split(counts), experts)
    kept = [_kept(part, number) if expert_choice and number > 1 else None for part, number in parts]
    return Pools(counts, kept, group, routing.sort(document.flatten() != PADDING))


def _kept(group: Tensor, experts: int) -> Tensor:
    """The first n / E places (rounded, at least one) of each group, of n, once tokens are sorted by group."""
    _, ordered, sizes = group.sort().values.unique_consecutive(return_inverse=True, return_counts=True)
    rank = torch.arange(len(group), device=group.device) - (sizes.cumsum(0) - sizes)[ordered]
    capacity = (sizes / experts).round().clamp_min(1)
    return (rank < capacity[ordered]).nonzero().flatten()


def assignments(pools: Pools, experts: Sequence[int], top_k: int) -> int:
    """P: how many times the batch passes through an expert."""
    kept = zip(pools.counts, pools.kept, experts)
    return sum(e * len(k) if k is not None else n * (top_k if e > 1 else 1) for n, k, e in kept)


class MixtureOfExperts(nn.Module):
    """Routes tokens to the experts of `feed_forward`, a module (x sorted by expert, Routing) -> the same shape.

    experts: their number in each pool; `feed_forward` holds sum(experts), stacked pool by pool. `router` (sum(experts),
    D) scores them; a lone expert's row has no effect, since its softmax is 1. shared: a feed-forward of all tokens,
    which is added, or None.
    """

    def __init__(
        self,
        dim: int,
        experts: Sequence[int],
        feed_forward: nn.Module,
        options: Experts,
        shared: nn.Module | None = None,
    ):
        super().__init__()
        self.experts, self.options = list(experts), options
        self.router = nn.Parameter(torch.empty(sum(experts), dim))
        self.feed_forward, self.shared = feed_forward, shared
        self._auxiliary: Tensor | None = None

    def forward(self, x: Tensor, pools: Pools) -> Tensor:
        """x (T, D) -> (T, D)."""
        self._auxiliary, first, tokens, gates, counts = None, 0, [], [], []
        places = zip(x.split(pools.counts), self.router.split(self.experts), pools.kept, self.options.balance_weights)
        for part, router, kept, balance_weight in places:
            rows = slice(first, first + len(part))
            token, gate, count = self._assign(part, router, kept, pools.group[rows], pools.real[rows], balance_weight)
            tokens.append(token + first)
            gates.append(gate)
            counts += count
            first = rows.stop
        token, gate = torch.cat(tokens), torch.cat(gates)
        ends = torch.tensor(counts, device=x.device).cumsum(0).to(torch.int32)
        y = self.feed_forward(x.index_select(0, token), Routing(None, None, ends, counts, None))
        start = torch.zeros_like(x) if self.shared is None else self.shared(x, Routing(None, None, None, [len(x)], 0))
        return start.index_add(0, token, (y * gate[:, None]).to(x.dtype))

    def _assign(self, x, router, kept, group, real, balance_weight) -> tuple[Tensor, Tensor, list[int]]:
        """Which of a pool's tokens go to each expert, with what weight: (P,) sorted by expert, (P,), E counts."""
        if len(router) == 1:
            return torch.arange(len(x), device=x.device), x.new_ones(len(x)), [len(x)]
        logits = F.linear(x, router).float()
        score = logits.softmax(-1)
        if kept is not None:
            token, gate = _expert_choice(score, group, kept)
            return token, gate, [len(kept)] * len(router)
        token_choice = self.options.router == "token_choice"
        gate, expert = score.topk(self.options.top_k if token_choice else 1, dim=-1)
        if token_choice and torch.is_grad_enabled():
            self._add_losses(logits, score, expert, real, balance_weight)
        order = expert.flatten().argsort(stable=True)
        counts = torch.bincount(expert.flatten(), minlength=len(router)).tolist()
        return order // gate.shape[1], gate.flatten()[order], counts

    def _add_losses(self, logits: Tensor, score: Tensor, expert: Tensor, real: Tensor, balance_weight: float) -> None:
        real = real.float() / real.sum().clamp_min(1)
        chosen = F.one_hot(expert, score.shape[1]).float().mean(1)
        balance = score.shape[1] * (real @ chosen * (real @ score)).sum()
        z = real @ logits.logsumexp(-1).square()
        loss = balance_weight * balance + self.options.z_weight * z
        self._auxiliary = loss if self._auxiliary is None else self._auxiliary + loss

    def auxiliary_loss(self) -> Tensor | float:
        """The weighted losses of the last forward pass with gradients, once: they are forgotten afterwards."""
        loss, self._auxiliary = self._auxiliary, None
        return 0.0 if loss is None else loss


def _expert_choice(score: Tensor, group: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """score (n, E), group (n,) -> the tokens that each expert takes, (E * K,), and their scores."""
    # Scores lie in [0, 1], so one sort by 2 * group - score keeps groups apart; doubles, so that it loses no digit.
    key = 2.0 * group.double()[:, None] - score.detach().double()
    token = key.t().argsort(dim=-1, stable=True)[:, kept]
    return token.flatten(), score.t().gather(1, token).flatten()
