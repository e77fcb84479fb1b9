"""Muon (Jordan et al., 2024): muon, for matrices; MuonAdamW, the optimizer of small convolutional networks.

Muon's step is the orthogonal matrix nearest to the averaged gradient. It is scaled so that its root mean square is that
of an AdamW step (Liu et al., 2025, arXiv 2502.16982), so that one learning rate and one decay serve both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEAST = 64  # rows and columns of a matrix that Muon steps: below, orthogonalising costs more than it gains


def muon(
    parameters: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float, weight_decay: float = 0.0
) -> torch.optim.Muon:
    """PyTorch's Muon over matrices, or over groups of them, whose rate and decay are those of an AdamW beside it."""
    return torch.optim.Muon(parameters, lr, weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")


class MuonAdamW:
    """Muon for the kernels of convolutions, AdamW for everything else.

    A kernel (out, in, h, w) is the matrix (out, in * h * w). Kernels with fewer than LEAST channels on a side, as the
    first and the last have, are AdamW's.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float):
        parameters = list(parameters)
        self.kernels = [p for p in parameters if _is_large_kernel(p)]
        # Muon takes matrices: views, which see every change of the kernels and hand theirs back.
        self.matrices = [p.detach().view(len(p), -1).requires_grad_() for p in self.kernels]
        self.parameters = parameters
        rest = [p for p in parameters if not _is_large_kernel(p)]
        self.parts: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(rest, lr, (0.9, 0.99), weight_decay=weight_decay, fused=True)
        }
        if self.matrices:
            self.parts["muon"] = muon(self.matrices, lr, 0.95, weight_decay)

    def set_lr(self, lr: float) -> None:
        """The learning rate of both optimizers."""
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = lr

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """One step of both, by the gradients that the parameters have."""
        for matrix, kernel in zip(self.matrices, self.kernels):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, dict]:
        """The state of each, by its name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Go on from what `state_dict` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def _is_large_kernel(parameter: Tensor) -> bool:
    """Whether Muon steps it."""
    return parameter.ndim == 4 and min(parameter.shape[:2]) >= LEAST
