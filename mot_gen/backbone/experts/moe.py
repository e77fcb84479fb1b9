"""A feed-forward of several experts: MixtureOfExperts, set_progress, best_experts, times_each, WEIGHTS.

The experts of all pools (`pools`) are stacked, so that a layer is one grouped product. MoE-4x (arXiv 2411.04996) is one
pool of four experts, its hybrid a pool of four for text beside pools of one, and routed groups by modality
(Symbiotic-MoE, arXiv 2604.07753) are several pools of several. Shared experts, which all tokens pass through whatever
their pool, may stand beside the routed ones (Symbiotic-MoE). A router (`routers/`) says which experts a token goes to;
the weight of what an expert makes of it is its softmax score over all experts of the pool.

Shapes: T tokens in tower order, n tokens of a pool, E experts of a pool, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.experts.pools import Pool, Pools, RouterState
from mot_gen.backbone.parts import Choice, Router
from mot_gen.backbone.routing import ExpertRouting, Owned, Routing


class MixtureOfExperts(Owned):
    """Routes tokens to the experts of `feed_forward`, a module (x sorted by expert, Routing) -> the same shape.

    experts: how many there are in each pool; `feed_forward` holds all of them, stacked pool by pool.
    choose: the part that sends tokens to experts.
    router: (sum(experts), D), the vectors by which experts are scored; None if `choose` needs no scores. The row of a
    lone expert has no effect, since its softmax is 1.
    balance_weights: for each pool, the weight of the loss that keeps the experts' loads even.
    shared: a feed-forward for all tokens, whose output is added, or None.
    number: which layer it is. progress: how much of its training it has had, from 0 to 1.
    """

    def __init__(
        self,
        dim: int,
        experts: Sequence[int],
        feed_forward: nn.Module,
        choose: Router,
        balance_weights: Sequence[float],
        shared: nn.Module | None = None,
    ):
        super().__init__()
        self.experts, self.choose, self.balance_weights = list(experts), choose, list(balance_weights)
        self.router = nn.Parameter(torch.empty(sum(experts), dim)) if choose.scores else None
        self.number, self.progress = 0, 1.0
        self.feed_forward, self.shared = feed_forward, shared
        self._auxiliary: Tensor | None = None

    def forward(self, x: Tensor, pools: Pools) -> Tensor:
        """x (T, D) -> (T, D)."""
        self._auxiliary = None
        first, tokens, gates, choices = 0, [], [], []
        state = RouterState(self.number, self.training, self.progress)
        for place, (part, pool) in enumerate(zip(x.split(pools.counts), pools.each(self.balance_weights, state))):
            choice = self._choice(part, place, pool)
            tokens.append(choice.token + first)
            gates.append(choice.gate)
            choices.append(choice)
            first += len(part)
        token, gate = torch.cat(tokens), torch.cat(gates)
        y = self.feed_forward(x.index_select(0, token), _routing(choices, len(token)))
        start = self._start(x)
        return start.index_add(0, token, (y * gate[:, None]).to(x.dtype))

    def _start(self, x: Tensor) -> Tensor:
        """The output of the shared experts, or zeros, to which the routed experts' outputs are added."""
        if self.shared is None:
            return torch.zeros_like(x)
        ends = torch.full((1,), len(x), device=x.device, dtype=torch.int32)
        shared = self.shared(x, Routing(None, None, ends, [len(x)], 0))
        return shared.to(x.dtype)  # under autocast a product is in bf16, and the residual stream in fp32

    def _choice(self, x: Tensor, place: int, pool: Pool) -> Choice:
        """Which tokens of a pool go to which of its experts. place: the pool's number."""
        if self.experts[place] == 1:
            every = torch.arange(len(x), device=x.device)
            return Choice(every, x.new_ones(len(x)), every.new_full((1,), len(x)), known=[len(x)])
        choice = self.choose.choose(self._logits(x, place), pool)
        if choice.loss is not None:
            self._auxiliary = choice.loss if self._auxiliary is None else self._auxiliary + choice.loss
        return choice

    def _logits(self, x: Tensor, place: int) -> Tensor:
        """(n, E) the scores of a pool's tokens; zeros where experts are not scored."""
        if self.router is None:
            return x.new_zeros(len(x), self.experts[place], dtype=torch.float32)
        return F.linear(x, self.router.split(self.experts)[place]).float()

    def auxiliary_loss(self) -> Tensor | float:
        """The weighted losses of the last forward pass, with gradients. They are forgotten when they are read."""
        loss, self._auxiliary = self._auxiliary, None
        return 0.0 if loss is None else loss


def _routing(choices: Sequence[Choice], rows: int) -> ExpertRouting:
    """The routing of the rows of all pools, one expert after the other."""
    known: list[int] | None = []
    for choice in choices:
        known = None if known is None or choice.known is None else known + choice.known
    return ExpertRouting(torch.cat([choice.counts for choice in choices]), rows, known)


def set_progress(backbone: nn.Module, progress: float) -> None:
    """Set how much of its training a backbone has had, from 0 to 1, in all layers of experts."""
    for module in backbone.modules():
        if isinstance(module, MixtureOfExperts):
            module.progress = progress


# Name -> weights of the experts that a token takes, from their scores (n, k). "scaled" is 1 for equal scores.
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda gate: gate,
    "scaled": lambda gate: gate.shape[1] * gate / gate.sum(1, keepdim=True),
    "renormalised": lambda gate: gate / gate.sum(1, keepdim=True),
    "one": torch.ones_like,
}


def best_experts(score: Tensor, top_k: int, weight: str = "softmax") -> tuple[Choice, Tensor]:
    """score (n, E) -> every token to its `top_k` best experts, none dropped; and those experts, (n, top_k). weight: a
    name in WEIGHTS."""
    gate, expert = score.topk(top_k, dim=-1)
    gate = WEIGHTS[weight](gate)
    order = expert.flatten().argsort(stable=True)
    return Choice(order // top_k, gate.flatten()[order], times_each(expert, score.shape[1])), expert


def times_each(expert: Tensor, experts: int) -> Tensor:
    """(E,) int64, how often each expert is named in a tensor of any shape; no host waits, as `bincount` would."""
    numbers = torch.arange(experts, device=expert.device)
    return (expert.flatten() == numbers[:, None]).sum(1)
