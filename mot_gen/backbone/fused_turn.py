"""turn: queries and keys normed and turned to their positions, in place, as one kernel.

Plain PyTorch launches three kernels for it in fp32 and five in bf16: norm, weights, rotation, and the casts there and
back. It is for generation: no gradient passes through it.

Shapes: T tokens, H heads, K head width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def turn(qk: Tensor, angles: Tensor, weight: Tensor | None, eps: float) -> None:
    """Each head of qk (T, H, K), whose heads stand side by side, becomes qk / rms(qk) * weight (H, K), where there are
    weights, and is then turned by angles, (T, 1, K / 2) complex; in fp32, rounded at the end."""
    tokens, heads, width = qk.shape
    if not tokens:
        return
    turns, pairs = torch.view_as_real(angles), width // 2
    factors = turns if weight is None else weight  # something that is there, and is not read
    sizes = {"PAIRS": pairs, "BLOCK": triton.next_power_of_2(pairs), "NORMS": weight is not None}
    turn_kernel[(tokens, heads)](qk, turns, factors, qk.stride(0), eps, **sizes, num_warps=1)


@triton.jit
def turn_kernel(qk, turns, weight, row, eps, PAIRS: tl.constexpr, BLOCK: tl.constexpr, NORMS: tl.constexpr):
    token, head, pair = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BLOCK)
    real = pair < PAIRS
    at = qk + token * row + head * (2 * PAIRS) + 2 * pair
    x = tl.load(at, real, 0.0).to(tl.float32)
    y = tl.load(at + 1, real, 0.0).to(tl.float32)
    if NORMS:
        scale = tl.rsqrt((tl.sum(x * x, 0) + tl.sum(y * y, 0)) / (2 * PAIRS) + eps)
        own = weight + head * (2 * PAIRS) + 2 * pair
        x = x * scale * tl.load(own, real, 0.0)
        y = y * scale * tl.load(own + 1, real, 0.0)
    angle = turns + token * (2 * PAIRS) + 2 * pair
    cos, sin = tl.load(angle, real, 0.0), tl.load(angle + 1, real, 0.0)
    tl.store(at, x * cos - y * sin, real)
    tl.store(at + 1, x * sin + y * cos, real)
