"""Stick-breaking attention (ModuleFormer, arXiv 2306.04640): a query takes its share key by key, the newest first.

    z_ij = sigmoid(q_i k_j / sqrt(K))        a_ij = z_ij * product over the keys m between j and i of (1 - z_im)

so that a row sums to 1 - prod(1 - z) <= 1, and no position is needed: the published model has no RoPE
(`rope_frequencies` of zeros is none). "Newest" means nothing inside a picture; so queries of bidirectional spans keep
the softmax, over the same keys. The scores stand in memory, and products are sums of logarithms.

Shapes: B rows, H heads, Q queries, N keys, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.backbone.attention import scores_of, weigh
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.mixers import attention
from mot_gen.backbone.parts import Layer
from mot_gen.sequence import PADDING


@dataclass(frozen=True)
class Mixer(attention.Mixer):
    """Its options are those of `attention`."""

    def check(self, config: Any, towers: Sequence[str]) -> None:
        if any(not bias.empty for bias in config.roles.parts["bias"]):
            raise self.refuse("kind", "stick_breaking weighs keys by their order, and takes no backbone.bias; drop it")
        if self.attention == "flex":
            raise self.refuse("attention", "stick_breaking needs its scores in memory; leave it at auto")

    def _flex(self, batch: Batch) -> bool:
        return False

    def prepare(self, block: Layer, batch: Batch) -> None:
        super().prepare(block, batch)
        batch.once("breaks", lambda: batch.places[0].block[:, None, :, None] == PADDING)

    def attend(self, block: Layer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, plan: Plan) -> Tensor:
        scores, seen = scores_of(q, k), mask == 0
        weights = torch.where(plan.made["breaks"], break_sticks(scores, seen), torch.softmax(scores + mask, -1))
        return weigh(weights.to(v.dtype), v)

    def activations(self, block: Layer, batch: Batch) -> float:
        """Beside what attention keeps, some six numbers of each pair of a head."""
        rows, length = batch.layout.shape
        return super().activations(block, batch) + 6 * rows * length**2 * block.heads


def break_sticks(scores: Tensor, seen: Tensor) -> Tensor:
    """scores (B, H, Q, N) of keys in their order, seen: bool -> weights of the same shape, 0 where nothing is seen."""
    left = torch.where(seen, F.logsigmoid(-scores), 0.0)  # log of what a key leaves of the stick
    later = left.flip(-1).cumsum(-1).flip(-1) - left
    return torch.where(seen, torch.exp(F.logsigmoid(scores) + later), 0.0)
