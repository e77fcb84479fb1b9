"""The choices of experts under a reward (MoE-GRPO, arXiv 2603.24984): Routes, record_routes, refuse_without_experts.

Where tokens choose experts, that too is a choice, and may be made likelier or less likely. The probability of a token's
route is that of its experts by the routers' softmax scores, averaged over layers. Here experts are taken greedily, as
they are when the model is used, where the paper samples them.

Shapes: T tokens in tower order, n of a pool, E experts of a pool, k that a token takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mot_gen.backbone.experts.moe import MixtureOfExperts
from mot_gen.backbone.experts.pools import Pool
from mot_gen.backbone.parts import Choice, Router
from mot_gen.backbone.routers import token_choice
from mot_gen.errors import InputError
from mot_gen.model import MultimodalModel

Experts = list[list[Tensor | None]]  # of each layer and pool, (n, k); None where there was no choice


@dataclass
class Routes:
    """The routers' scores in a forward pass, by layer.

    scores: for each pool (n, E) log-probabilities; None for a pool of one expert, which leaves no choice.
    counts: how many tokens each pool has. taken: k.
    """

    scores: list[list[Tensor | None]] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)

    def experts(self) -> Experts:
        """The experts that each token took, (n, k), by layer and pool."""
        found = []
        for layer, taken in zip(self.scores, self.taken):
            found.append([None if score is None else score.topk(taken).indices for score in layer])
        return found

    def log_probs(self, experts: Experts) -> Tensor:
        """(T,) in tower order: the log-probability of these experts, summed over the k, averaged over layers; exactly 0
        where there was no choice."""
        layers = []
        for scores, chosen, counts in zip(self.scores, experts, self.counts):
            pools = [_of_pool(*pool) for pool in zip(scores, chosen, counts)]
            layers.append(torch.cat(pools))
        return torch.stack(layers).mean(0)

    @torch.no_grad()
    def entropy(self) -> float:
        """The entropy of the routers' scores, in nats, averaged over tokens that had a choice; 0 where none had."""
        found = []
        for score in chain.from_iterable(self.scores):
            if score is not None and len(score):
                found.append(-(score.exp() * score).sum(1).mean())
        return float(torch.stack(found).mean()) if found else 0.0


def _of_pool(scores: Tensor | None, experts: Tensor | None, count: int) -> Tensor:
    """(n,) the log-probability of the experts that `count` tokens of a pool took; 0 where there was no choice."""
    if scores is None or experts is None:
        return torch.zeros(count)
    return scores.gather(1, experts).sum(1)


class _Recording:
    """A router that notes its scores."""

    def __init__(self, router: Router, scores: list[Tensor]):
        self.router, self.scores = router, scores

    def choose(self, logits: Tensor, pool: Pool) -> Choice:
        self.scores.append(logits.log_softmax(-1))
        return self.router.choose(logits, pool)


def refuse_without_experts(model: MultimodalModel) -> None:
    """InputError unless tokens choose experts somewhere in this model."""
    routers = [module.choose for module in model.modules() if isinstance(module, MixtureOfExperts)]
    if not any(isinstance(router, token_choice.Router) for router in routers):
        raise InputError(
            "reinforce.experts: in this model no token chooses an expert; give a backbone with router token_choice, as "
            "symbiotic has, or leave experts out"
        )


@contextmanager
def record_routes(model: MultimodalModel) -> Iterator[Routes]:
    """Within, the next forward pass of the model is recorded."""
    routes, undo = Routes(), []
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            undo += _watch(module, routes)
    try:
        yield routes
    finally:
        for each in undo:
            each()


def _watch(module: MixtureOfExperts, routes: Routes) -> list[Any]:
    """Note what one layer's router says; returns what undoes it."""
    router: Router = module.choose
    said: list[Tensor] = []

    def after(_: Any, given: tuple[Any, Any], __: Tensor) -> None:
        scores = iter(said)
        routes.scores.append([next(scores) if number > 1 else None for number in module.experts])
        routes.counts.append(given[1].counts)
        routes.taken.append(router.taken)
        said.clear()

    module.choose = _Recording(router, said)  # type: ignore[assignment]  # all that a layer asks of a router
    handle = module.register_forward_hook(after)
    return [handle.remove, lambda: setattr(module, "choose", router)]
