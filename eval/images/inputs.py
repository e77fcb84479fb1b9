"""Images as metrics take them: check_images, to_uint8, to_unit.

The contract: (N, C, H, W), uint8 or float in [0, 1]. Floats are rounded to bytes, never truncated; NaN is an error, and
so is a value out of range unless `clamp=True`. Their size is changed by `resizing.resize`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.errors import InputError


def check_images(images: Tensor, clamp: bool = False) -> Tensor:
    """The images, uint8 or float clamped to [0, 1]; InputError for another shape, dtype or range."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(f"images must be (N, 3, H, W) or (N, 1, H, W), got shape {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InputError(f"images must be uint8 or float in [0, 1], got {images.dtype}; convert them first")
    if torch.isnan(images).any():
        raise InputError("images hold NaN; remove them, no clamping can mend them")
    if not clamp and images.numel():
        _refuse_range(images.min().item(), images.max().item())
    return images.clamp(0, 1)


def _refuse_range(low: float, high: float) -> None:
    """InputError unless all values lie in [0, 1]."""
    if low < 0 or high > 1:
        raise InputError(
            f"images must lie in [0, 1], got [{low:.4g}, {high:.4g}]; rescale them (metric objects take clamp=True)"
        )


def to_uint8(images: Tensor, clamp: bool = False) -> Tensor:
    """Checked images as bytes, rounded to the nearest: 0.5 -> 128, 1.0 -> 255."""
    images = check_images(images, clamp)
    if images.dtype == torch.uint8:
        return images
    return images.float().mul(255).round().to(torch.uint8)


def to_unit(images: Tensor, clamp: bool = False) -> Tensor:
    """Checked images as float64 in [0, 1], bytes divided by 255."""
    images = check_images(images, clamp)
    if images.dtype == torch.uint8:
        return images.double() / 255
    return images.double()
