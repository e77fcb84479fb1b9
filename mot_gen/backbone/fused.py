"""The switch of our own kernels for GPUs, written in Triton: use, is_used; and the kernels, gate and turn.

They are off, because no GPU has shown yet that they are equal to the plain functions and faster; `make gpu` measures
both. The tests compile them for an H100, and compare their values in Triton's interpreter.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

_used = False


def use(fused: bool = True) -> None:
    """Let models on a GPU take the fused kernels from now on, or the plain functions again."""
    global _used
    _used = fused


def is_used(x: Tensor) -> bool:
    """Whether a fused kernel reads this tensor. The compiler fuses plain functions itself; forward mode needs them."""
    if not (_used and x.is_cuda) or torch.compiler.is_compiling():
        return False
    return forward_ad.unpack_dual(x).tangent is None


# Triton is imported by those alone who use it.


def gate(gate_up: Tensor) -> Tensor:
    """See `fused_gate`."""
    from mot_gen.backbone import fused_gate

    return fused_gate.gate(gate_up)


def turn(qk: Tensor, angles: Tensor, weight: Tensor | None, eps: float) -> None:
    """See `fused_turn`."""
    from mot_gen.backbone import fused_turn

    fused_turn.turn(qk, angles, weight, eps)
