"""Objective: next-token cross-entropy, with the z-loss of PaLM and label smoothing as options."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mot_gen.errors import InputError


@dataclass(frozen=True)
class Objective:
    """loss = -log softmax(logits)[id] + z_loss * logsumexp(logits)^2 (Chowdhery et al. 2022; Chameleon uses 1e-5)."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self):
        if not self.z_loss >= 0 or not 0 <= self.label_smoothing < 1:
            raise InputError(
                "objectives: next_token needs z_loss >= 0 and label_smoothing in [0, 1), "
                f"got {self.z_loss} and {self.label_smoothing}"
            )

    def loss(self, logits: Tensor, ids: Tensor) -> Tensor:
        """logits (N, V), ids (N,) -> (N,) in nats."""
        logits = logits.float()
        loss = F.cross_entropy(logits, ids, reduction="none", label_smoothing=self.label_smoothing)
        return loss + self.z_loss * logits.logsumexp(-1).square() if self.z_loss else loss
