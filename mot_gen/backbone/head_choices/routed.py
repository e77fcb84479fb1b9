"""Heads as experts (MoH, arXiv 2410.11842): some heads serve every token, of the others each token chooses `top_k`.

    shared heads    a_0 * S * softmax(W_s x)                         S of them
    routed heads    a_1 * k * renormalised top k of softmax(W_r x)   the H - S others; 0 for those not chosen
    (a_0, a_1) = 2 * softmax(W_0 x)

What a head found is multiplied by its weight before the output projection. All heads are computed here and weighed;
`flops` counts those in use. A loss keeps the loads of the R routed heads even: R * sum_h f_h P_h, f the share of the
choices and P the mean score. Routers begin normal, as those of experts; with zeros and top_k = R every weight is 1.

Shapes: T tokens in tower order, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.sequence import PADDING


@dataclass(frozen=True)
class HeadChoice(parts.HeadChoice):
    """shared: heads of every token. top_k: of the others, how many a token chooses. balance_weight: of the loss."""

    shared: int = 0
    top_k: int = 1
    balance_weight: float = 0.01

    untied = ("head_router",)

    def check(self, config: Any, towers: Any) -> None:
        heads = [mixer.heads for mixer in config.roles.parts["mixer"] if hasattr(mixer, "heads")]
        fewest = min(heads, default=self.shared + self.top_k)
        if not 0 <= self.shared < fewest:
            raise self.refuse("shared", f"must be from 0 to {fewest - 1}, below the heads, got {self.shared}")
        most = fewest - self.shared
        if not 1 <= self.top_k <= most:
            raise self.refuse("top_k", f"must be from 1 to {most}, the heads not shared, got {self.top_k}")

    def modules(self, block: Layer) -> parts.Modules:
        if not hasattr(block, "heads"):
            return {}
        block.head_loss = None
        return {"head_router": block.owners.inward("head_router", block.heads + 2)}

    def prepare(self, block: Layer, batch: Batch) -> None:
        document = batch.layout.document.flatten()
        batch.once("real", lambda: batch.routing.sort(document != PADDING))

    def weigh(self, block: Layer, x: Tensor, mixed: Tensor, plan: Plan) -> Tensor:
        weights = self._weights(block, block.head_router(x, plan.routing).float(), plan)
        return (mixed.unflatten(1, (block.heads, -1)) * weights[..., None]).flatten(1).to(mixed.dtype)

    def _weights(self, block: Layer, logits: Tensor, plan: Plan) -> Tensor:
        """logits (T, H + 2) -> (T, H)."""
        shared, routed, both = logits.split_with_sizes([self.shared, block.heads - self.shared, 2], 1)
        a = 2 * both.softmax(-1)
        score = routed.softmax(-1)
        best, chosen = score.topk(self.top_k, dim=-1)
        gate = self.top_k * best / best.sum(-1, keepdim=True)
        if torch.is_grad_enabled():
            block.head_loss = self.balance_weight * _balance(score, chosen, plan.made["real"])
        weighed = torch.zeros_like(score).scatter(1, chosen, gate)
        return torch.cat([a[:, :1] * self.shared * shared.softmax(-1), a[:, 1:] * weighed], 1)

    def active(self, block: Layer) -> int:
        return self.shared + self.top_k

    def flops(self, block: Layer, batch: Batch) -> int:
        return 2 * block.owners.channels(batch.routing) * (block.heads + 2) if hasattr(block, "heads") else 0

    def activations(self, block: Layer, batch: Batch) -> float:
        """The weighed heads beside the unweighed, and a few numbers a head."""
        if not hasattr(block, "heads"):
            return 0
        return batch.layout.modality.numel() * block.heads * (2 * block.head_dim + 6)

    def auxiliary_loss(self, block: Layer) -> Tensor | float:
        loss = getattr(block, "head_loss", None)
        if loss is None:
            return 0.0
        block.head_loss = None
        return loss

    def idle_parameters(self, block: Layer, tower: int) -> int:
        """Queries and outputs of the heads that a token does not choose."""
        if not hasattr(block, "heads"):
            return 0
        return 2 * block.owners.dim * block.head_dim * (block.heads - self.active(block))


def _balance(score: Tensor, chosen: Tensor, real: Tensor) -> Tensor:
    """score (T, R), chosen (T, k), real (T,) bool, not padding."""
    share = real.float() / real.sum().clamp_min(1)
    picked = F.one_hot(chosen, score.shape[1]).float().mean(1)
    return score.shape[1] * (share @ picked * (share @ score)).sum()
