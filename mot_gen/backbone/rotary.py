"""Rotary positions (RoFormer, arXiv 2104.09864): rotary_frequencies, rotary, rotate, rotate_to.

Shapes: T tokens, H heads, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_frequencies(head_dim: int, theta: float) -> Tensor:
    """(D/2,) RoFormer's frequency of each pair, theta ** (-2i / D)."""
    return theta ** (-torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32) / head_dim)


def rotary(time: Tensor, frequencies: Tensor) -> Tensor:
    """(T,) positions, or (T, D/2) of each pair -> (T, 1, D/2, 2) cosines and sines, RoFormer's pairs interleaved:
    (x0, x1), (x2, x3), ..."""
    angle = time.float().view(len(time), 1, -1) * frequencies
    return torch.stack([angle.cos(), angle.sin()], -1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Apply `rotary` to x (T, H, D)."""
    if torch.compiler.is_compiling():  # the compiler has no complex kernels; written out it fuses them
        cos, sin = rotation.unbind(-1)
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)
    return torch.view_as_real(_pairs(x.float()) * torch.view_as_complex(rotation)).flatten(-2).to(x.dtype)


def rotate_to(place: Tensor, x: Tensor, angles: Tensor) -> None:
    """Write to place (T, H, D) what `rotate` makes of x (T, H, D), in fp32; no gradient is wanted. angles: `rotary` as
    complex numbers, (T, 1, D/2)."""
    if place.dtype == torch.float32:
        torch.mul(_pairs(x), angles, out=_pairs(place))
    else:
        place.copy_(torch.view_as_real(_pairs(x) * angles).flatten(-2))


def _pairs(x: Tensor) -> Tensor:
    """(T, H, D) -> (T, H, D/2) complex, in the same memory."""
    return torch.view_as_complex(x.view(*x.shape[:-1], x.shape[-1] // 2, 2))  # half the time of `unflatten`
