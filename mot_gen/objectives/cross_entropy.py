"""What the objectives by cross-entropy share: CrossEntropy, with PaLM's z-loss, label smoothing and noise on what is
read as options.

Shapes: N tokens of all spans, n spans, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen.errors import InputError


@dataclass(frozen=True)
class CrossEntropy:
    """loss = -log softmax(logits)[id] + z_loss * logsumexp(logits)^2 (Chowdhery et al. 2022; Chameleon uses 1e-5).

    replaced: the largest share of a span's tokens that stand replaced, each by any of the modality, where training
    reads them; every span draws its own share, up to that (Xie et al. 2017, arXiv 1703.02573, of one share). What is to
    be predicted stays. To tokens it is what noise is to latents: few pictures are not learned by heart.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    replaced: float = 0.0

    def __post_init__(self):
        kind = type(self).__module__.rpartition(".")[2]
        if not 0 <= self.replaced <= 1:
            raise InputError(f"objectives: {kind} needs replaced in [0, 1], got {self.replaced}")
        if not 0 <= self.z_loss < math.inf or not 0 <= self.label_smoothing < 1:
            raise InputError(
                f"objectives: {kind} needs z_loss >= 0 and label_smoothing in [0, 1), "
                f"got {self.z_loss} and {self.label_smoothing}"
            )

    def replace(self, ids: Tensor, span: Tensor, size: int, generator: torch.Generator | None = None) -> Tensor:
        """ids (N,) in [0, size), and the number of each one's span, (N,) in [0, n) -> ids as training reads them."""

        def uniform(n: int) -> Tensor:
            return torch.rand(n, generator=generator, device=ids.device)

        spans = int(span.max()) + 1 if len(span) else 0
        share = self.replaced * uniform(spans)
        others = (size * uniform(len(ids))).long()
        return torch.where(uniform(len(ids)) < share[span], others, ids)

    def loss(self, logits: Tensor, ids: Tensor) -> Tensor:
        """logits (N, V), ids (N,) -> (N,) in nats."""
        logits = logits.float()
        loss = F.cross_entropy(logits, ids, reduction="none", label_smoothing=self.label_smoothing)
        return loss + self.z_loss * logits.logsumexp(-1).square() if self.z_loss else loss
