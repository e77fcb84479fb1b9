"""MuonAdamW: the optimizer of small convolutional networks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LEAST = 64  # channels on both sides of a kernel: below, its step costs more than it gains


class MuonAdamW:
    """Muon (Jordan et al., 2024) for the kernels of convolutions, AdamW for everything else.

    Muon's step is the orthogonal matrix nearest to the averaged gradient, with a kernel (out, in, h, w) as the matrix
    (out, in * h * w), scaled so that its root mean square is that of an AdamW step (Liu et al., 2025, arXiv
    2502.16982): one learning rate serves both. Kernels with fewer than LEAST channels on a side, as the first and the
    last have, are AdamW's.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float):
        parameters = list(parameters)
        self.kernels = [p for p in parameters if p.ndim == 4 and min(p.shape[:2]) >= LEAST]
        chosen = set(map(id, self.kernels))
        # Muon takes matrices: views, which see every change of the kernels and hand theirs back.
        self.matrices = [p.detach().view(len(p), -1).requires_grad_() for p in self.kernels]
        self.parameters = parameters
        rest = [p for p in parameters if id(p) not in chosen]
        self.parts = {"adamw": torch.optim.AdamW(rest, lr, (0.9, 0.99), weight_decay=weight_decay, fused=True)}
        if self.matrices:
            self.parts["muon"] = torch.optim.Muon(
                self.matrices, lr, weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            )

    def set_lr(self, lr: float) -> None:
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = lr

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        for matrix, kernel in zip(self.matrices, self.kernels):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, dict]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
