"""Each of E experts takes the n / E tokens of a document, n long, that score highest with it (arXiv 2202.09368).

The load is even by construction; but whether a token is taken depends on later ones, so the layer is not causal. While
generating there are no later tokens, and each token goes to its own best expert.
"""

from __future__ import annotations

from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.experts.moe import best_experts
from mot_gen.backbone.experts.pools import Pool
from mot_gen.backbone.parts import Layer


class Router(parts.Router):
    """It has no options."""

    def causal(self, block: Layer) -> bool:
        return False

    def choose(self, logits: Tensor, pool: Pool) -> parts.Choice:
        score = logits.softmax(-1)
        if pool.kept is None:
            return best_experts(score, 1)[0]
        # Scores lie in [0, 1], so one sort by 2 * group - score keeps groups apart; doubles, so that it loses no digit.
        key = 2.0 * pool.group.double()[:, None] - score.detach().double()
        token = key.t().argsort(dim=-1, stable=True)[:, pool.kept]
        gate = score.t().gather(1, token).flatten()
        experts, each = score.shape[1], len(pool.kept)
        return parts.Choice(token.flatten(), gate, token.new_full((experts,), each), known=[each] * experts)
