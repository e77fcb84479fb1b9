"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): pictures learned from rewards by the objective's own loss.

No likelihood is needed, so samples come from the ordinary sampler, and any objective that denoises will do. A sample is
noised again, and its target is learned with the weight of how good the sample is: by a mixture of the old model and
this one (positive), and, with the weight of how bad it is, by its mirror image (negative). What is good thus pulls, and
what is bad pushes.

Shapes: P prompts, G samples of each, N tokens, C channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def goodness(advantages: Tensor) -> Tensor:
    """Advantages (P, G) -> r = 1/2 + clip(A, -1, 1) / 2 in [0, 1], how good each sample is."""
    return 0.5 + advantages.clamp(-1, 1) / 2


def nft_loss(
    objective: Any, output: Tensor, old: Tensor, target: Tensor, time: Tensor, good: Tensor, beta: float
) -> Tensor:
    """(N,) r l((1 - beta) old + beta now) + (1 - r) l((1 + beta) old - beta now), with l the loss of the objective.

    output, old: (N, C), the predictions now and of the old model. target: (N, C). time, good: (N,), t and r. The
    smaller beta is, the further the model moves beyond what is good.
    """
    old = old.float()
    moved = beta * (output.float() - old)
    positive = objective.loss(old + moved, target, time)
    negative = objective.loss(old - moved, target, time)
    return good * positive + (1 - good) * negative
