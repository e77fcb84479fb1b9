"""The selective scan of Mamba (arXiv 2312.00752, Algorithm 2): selective_scan, scan_by_steps, scan_by_kernel,
final_state.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t

with h = 0 before a token that starts anew. Both functions are exact: no products of decays are divided by each other,
so no length and no step size overflows. On CUDA the kernel of the package mamba_ssm is taken where it is installed and
no state is given. `scan_by_steps` is the definition under autograd. `selective_scan` computes
decays and inputs of a chunk at once, then makes each step one fused operation on a state that stays in the cache; it
keeps a state a chunk, and makes the others again for the backward pass.

Shapes: L steps, B rows, E channels, N states of each. Time comes first, so that a step is contiguous, and channels
last, so that it vectorises; the kernel wants time last. u, delta, y (L, B, E); A (N, E); B, C (L, B, N); start (L, B)
bool; h (B, N, E).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache as once

import torch
from torch import Tensor

CHUNK_SIZE = 2**19  # floats of the states of a chunk: what a core's cache holds with the decays beside them


FORGOTTEN = -104.0  # exp of it is 0 in fp32


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor, h: Tensor | None = None
) -> Tensor:
    """y (L, B, E) of the recurrence that begins with the state h, 0 if not given; no gradient flows through it."""
    if h is None and u.is_cuda and (kernel := _cuda_kernel()):
        return scan_by_kernel(kernel, u, delta, A, B, C, start)
    if h is None:
        h = u.new_zeros(u.shape[1], *A.shape)
    return _SelectiveScan.apply(u, delta, A, B, C, start, h)


@once
def _cuda_kernel() -> Callable | None:
    """The scan of mamba_ssm: (u (B, E, L), delta, A (E, N), B (B, N, L), C) -> y (B, E, L); None if not installed."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn


def scan_by_kernel(
    kernel: Callable, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor
) -> Tensor:
    """y (L, B, E) by a kernel that knows no documents: where one starts, the step is made so long that exp(delta A) is
    0 for every state, and u so much smaller that delta u is what it was."""
    long = FORGOTTEN / A.detach().max()
    anew = start[..., None]
    scaled, steps = torch.where(anew, u * (delta / long), u), torch.where(anew, long, delta)
    y = kernel(
        *(t.permute(1, 2, 0).contiguous() for t in (scaled, steps)),
        A.t().contiguous(),
        *(t.permute(1, 2, 0).contiguous() for t in (B, C)),
    )
    return y.permute(2, 0, 1)


def scan_by_steps(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor, h: Tensor) -> Tensor:
    """The same outputs, computed token by token as the paper writes them."""
    y = []
    for u_t, delta_t, B_t, C_t, start_t in zip(*(t.unbind(0) for t in (u, delta, B, C, start))):
        h = h.masked_fill(start_t[:, None, None], 0.0)
        h = torch.exp(delta_t[:, None] * A) * h + B_t[..., None] * (delta_t * u_t)[:, None]
        y.append((C_t[..., None] * h).sum(1))
    return torch.stack(y)


@torch.no_grad()
def final_state(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, start: Tensor, h: Tensor) -> Tensor:
    """h (B, N, E) after the last step."""
    for steps in _chunks(u, A):
        h = _states(u[steps], delta[steps], A, B[steps], start[steps], h)[0][-1]
    return h.clone()


def chunk_length(state: int) -> int:
    """Steps of a chunk whose state has so many floats, of all rows together."""
    return min(max(CHUNK_SIZE // state, 4), 64)


def _chunks(u: Tensor, A: Tensor) -> list[slice]:
    length = chunk_length(u[0].numel() * len(A))
    return [slice(first, min(first + length, len(u))) for first in range(0, len(u), length)]


def _states(u, delta, A, B, start, h) -> tuple[Tensor, Tensor]:
    """The states after each step of a chunk and the decays before it, (c, B, N, E) each."""
    decay = (delta[:, :, None] * A).exp_().masked_fill_(start[:, :, None, None], 0.0)
    states = (delta * u)[:, :, None] * B[..., None]
    for a, state in zip(decay.unbind(0), states.unbind(0)):
        h = state.addcmul_(a, h)
    return states, decay


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, start, h):
        y, begun = torch.empty_like(u), []
        for steps in _chunks(u, A):
            begun.append(h)
            states, _ = _states(u[steps], delta[steps], A, B[steps], start[steps], h)
            y[steps] = (C[steps][:, :, None] @ states)[:, :, 0]
            h = states[-1].clone()
        ctx.save_for_backward(u, delta, A, B, C, start, *begun)
        return y

    @staticmethod
    def backward(ctx, grad):
        u, delta, A, B, C, start, *begun = ctx.saved_tensors
        grad_u, grad_delta, grad_A, grad_B, grad_C = (torch.zeros_like(t) for t in (u, delta, A, B, C))
        later = torch.zeros_like(begun[0])  # what the chunk after this one sends back to its first state
        for steps, h in reversed(list(zip(_chunks(u, A), begun))):
            states, decay = _states(u[steps], delta[steps], A, B[steps], start[steps], h)
            grad_C[steps] = (states @ grad[steps][..., None])[..., 0]
            back = C[steps][..., None] * grad[steps][:, :, None]  # dL/dh_t
            back[-1] += later
            for t in range(len(back) - 2, -1, -1):
                back[t].addcmul_(decay[t + 1], back[t + 1])
            later = decay[0] * back[0]
            fed = (B[steps][:, :, None] @ back)[:, :, 0]  # dL/d(delta u)
            grad_B[steps] = (back @ (delta[steps] * u[steps])[..., None])[..., 0]
            grad_u[steps] = fed * delta[steps]
            exponent = back.mul_(decay)  # dL/d(delta A) = dL/dh_t h_{t-1} decay_t
            exponent[1:].mul_(states[:-1])
            exponent[0].mul_(h)
            grad_delta[steps] = (exponent * A).sum(2).addcmul_(fed, u[steps])
            grad_A += exponent.mul_(delta[steps][:, :, None]).sum((0, 1))
        return grad_u, grad_delta, grad_A, grad_B, grad_C, None, None
