"""Objective: next-scale prediction (VAR, Tian et al. 2024, arXiv 2404.02905).

A picture is tokenised at several scales, from coarse to fine. All tokens of a scale are predicted at once, from what
the scales before have built, so that a picture takes one pass a scale. Tokens of one scale are independent of one
another, given the earlier ones: log p(picture) = sum over scales k and their tokens i of log p(r_ki | r_1, ..., r_k-1).
The loss is the cross-entropy, averaged over the tokens of all scales; held out it is the exact one, in nats a token.

Shapes: N tokens of all spans, n spans, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.objectives.cross_entropy import CrossEntropy


@dataclass(frozen=True)
class Objective(CrossEntropy):
    """The options of `CrossEntropy`. With `replaced` above 0, scales are also predicted from earlier ones that have
    errors in them, as they have while generating.

    leading: the share of spans which are predicted although learned tokens follow them in their document. Those tokens
    then read what the scales before the last have built; else they read the span as it is, and it is not predicted
    itself. Nor is one that only conditions.
    """

    leading: float = 0.0
    by_scales = True  # not a field: tokens see their own scale and all earlier ones

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.leading <= 1:
            raise InputError(f"objectives: next_scale needs leading in [0, 1], got {self.leading}")

    def sample_time(self, learned: Tensor, leads: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """learned, leads: (n,) bool -> (n,) times: 1 for a span that is predicted, 0 for one that is read."""
        chosen = torch.rand(len(learned), generator=generator, device=learned.device) < self.leading
        return (learned & (~leads | chosen)).float()

    def mask(self, time: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """time (N,), one per token -> (N,) bool, which of them are predicted."""
        return time > 0

    def weigh(self, masked: Tensor, time: Tensor, bound: bool) -> tuple[Tensor, Tensor]:
        """masked (N,) bool -> (N,) weights of their losses, and (N,) bool, the tokens over which they are averaged."""
        return masked.float(), masked
