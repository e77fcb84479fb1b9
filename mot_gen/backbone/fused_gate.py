"""gate: silu(gate) * up of a gated unit, as one kernel forward and one backward.

Plain PyTorch launches two and four kernels for it, each of which reads and writes all numbers. Values are rounded where
the plain functions round them.

Shapes: n tokens, F hidden width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers of a program


def gate(gate_up: Tensor) -> Tensor:
    """(n, 2 F) contiguous, gate and up side by side -> (n, F)."""
    return _Gate.apply(gate_up)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):
        ctx.save_for_backward(gate_up)
        made = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        _launch(forward_kernel, made, gate_up, made)
        return made

    @staticmethod
    def backward(ctx, grad):
        (gate_up,) = ctx.saved_tensors
        grad, grad_gate_up = grad.contiguous(), torch.empty_like(gate_up)
        _launch(backward_kernel, grad, gate_up, grad, grad_gate_up)
        return grad_gate_up


def _launch(kernel, like: Tensor, *tensors: Tensor) -> None:
    """Run a kernel over all numbers of `like` (n, F)."""
    total = like.numel()
    if total:
        kernel[(triton.cdiv(total, BLOCK),)](*tensors, like.shape[1], total, BLOCK=BLOCK)


@triton.jit
def forward_kernel(gate_up, made, width, total, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = place < total
    at = gate_up + place // width * (2 * width) + place % width
    gate = tl.load(at, real, 0.0).to(tl.float32)
    up = tl.load(at + width, real, 0.0).to(tl.float32)
    silu = (gate * tl.sigmoid(gate)).to(made.dtype.element_ty).to(tl.float32)
    tl.store(made + place, silu * up, real)


@triton.jit
def backward_kernel(gate_up, grad, grad_gate_up, width, total, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = place < total
    within = place // width * (2 * width) + place % width
    gate = tl.load(gate_up + within, real, 0.0).to(tl.float32)
    up = tl.load(gate_up + within + width, real, 0.0).to(tl.float32)
    of_made = tl.load(grad + place, real, 0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    silu = (gate * share).to(grad.dtype.element_ty).to(tl.float32)
    of_silu = (of_made * up).to(grad.dtype.element_ty).to(tl.float32)
    tl.store(grad_gate_up + within, of_silu * share * (1 + gate * (1 - share)), real)
    tl.store(grad_gate_up + within + width, of_made * silu, real)
