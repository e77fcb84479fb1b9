"""A Gaussian mixture on the scores inside a picture (GMM, arXiv 2309.05375): near tokens are compared more strongly.

    s'_ij = s_ij * sum_m a_m exp(-d_ij^2 / (2 (sigma_m^2 + 1e-5)))

for tokens i, j of one bidirectional span, d their distance on the grid; all other scores stay as they are. Every head
has M Gaussians of its own. Scores are multiplied, which no mask can do, so they stand in memory. The published code
draws a ~ 2 N(0, 1), of which a negative one turns attention round; here a = 1 / M and sigma = 10 at the start.

Shapes: B rows, H heads, Q queries, N keys, M Gaussians, U distinct distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.attention import Places, in_one_block, scores_of, weigh
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Initial
from mot_gen.sequence import Modality


@dataclass(frozen=True)
class Bias(parts.Bias):
    """gaussians: M of each head."""

    gaussians: int = 3

    def fit(self, config: Any) -> Self:
        self.require_counts("gaussians")
        return self

    def check_modalities(self, modalities: Sequence[Modality]) -> None:
        self.require_spans(modalities)

    def modules(self, block: Layer) -> parts.Modules:
        if not hasattr(block, "heads"):
            return {}
        shape = (self.gaussians, block.heads)
        return {"strengths": nn.Parameter(torch.empty(shape)), "deviations": nn.Parameter(torch.empty(shape))}

    def initial(self, block: Layer) -> Mapping[str, Initial]:
        if not hasattr(block, "heads"):
            return {}
        return {
            "strengths": partial(nn.init.constant_, val=1 / self.gaussians),
            "deviations": partial(nn.init.constant_, val=10.0),
        }

    def scores(self, block: Layer, query: Places, key: Places) -> float:
        return 0.0

    def prepare(self, block: Layer, batch: Batch) -> None:
        batch.once("grid distances", lambda: _distances(batch))

    def attend(self, block: Layer, q: Tensor, k: Tensor, v: Tensor, mask: Any, plan: Plan) -> Tensor:
        squares, index = plan.made["grid distances"]
        widths = block.deviations.square()[..., None] + 1e-5
        mixture = (block.strengths[..., None] * torch.exp(-squares / (2 * widths))).sum(0)
        factors = torch.cat([mixture, mixture.new_ones(block.heads, 1)], 1)[:, index].transpose(0, 1)
        weights = torch.softmax(scores_of(q, k) * factors + mask, -1)
        return weigh(weights.to(v.dtype), v)

    def activations(self, block: Layer, batch: Batch) -> float:
        """Four numbers for each pair and head: score, factor, product and weight."""
        rows, length = batch.layout.shape
        return 4 * rows * length**2 * block.heads if hasattr(block, "heads") else 0


def _distances(batch: Batch) -> tuple[Tensor, Tensor]:
    """(U,) the squared distances that occur, and (B, Q, N) which of them a pair has: U for pairs of no common span. The
    tokens of a span are read in one pass, so that over a cache its keys are those of the pass."""
    query, key = batch.places
    grid = batch.layout.position[..., 1:]
    square = (grid[:, :, None] - grid[:, None]).square().sum(-1)
    if batch.cache is not None:
        own = query.index[:, None].expand(square.shape)
        square = square.new_zeros(*query.index.shape, key.index.shape[1]).scatter(2, own, square)
    same = in_one_block(query[:, :, None], key[:, None])
    found, index = square[same].unique(return_inverse=True)
    return found, torch.full_like(square, len(found)).masked_scatter(same, index)
