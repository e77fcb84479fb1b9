"""Resizing of images by a named mode, since the mode moves an FID by whole points (Parmar et al. 2022): resize.

    tf1        bilinear as TensorFlow 1 did it: no half-pixel centres, no antialiasing; the original FID
    clean      bicubic with antialiasing in float, then clipped to [0, 255], as clean-fid does it with PIL
    antialias  bilinear with antialiasing in float, as PIL does it
    crop       the short side resized by `clean` and rounded to whole levels, then the centre cut out, as CLIP does it

The first three squash a picture that is not square; `crop` loses its ends.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mot_gen.errors import InputError, nearest


def resize(images: Tensor, size: int | tuple[int, int], mode: str) -> Tensor:
    """(N, C, H, W) of levels from 0 to 255 -> (N, C, height, width) float32 in the same range, by a named mode."""
    if mode not in RESIZE_MODES:
        raise InputError(f"resize mode {mode!r} is not known" + nearest(mode, RESIZE_MODES))
    height, width = (size, size) if isinstance(size, int) else size
    images = images.float()
    if images.shape[-2:] == (height, width):
        return images
    return RESIZE_MODES[mode](images, (height, width))


def _tf1(images: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    return _tf1_axis(_tf1_axis(images, -2, height), -1, width)


def _tf1_axis(images: Tensor, axis: int, length: int) -> Tensor:
    old = images.shape[axis]
    # TensorFlow 1 maps output i to input i * old / new in float32; half-pixel centres came with TensorFlow 2.
    source = torch.arange(length, device=images.device, dtype=torch.float32) * (old / length)
    lower = source.floor().long().clamp(max=old - 1)
    upper = (lower + 1).clamp(max=old - 1)
    weight = (source - lower).view(-1, *[1] * (-axis - 1))
    below, above = images.index_select(axis, lower), images.index_select(axis, upper)
    return below + (above - below) * weight


def _clean(images: Tensor, size: tuple[int, int]) -> Tensor:
    # A bicubic kernel has negative lobes, so sharp edges overshoot by dozens of levels.
    return interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp_(0, 255)


def _antialias(images: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    # Rounded to bytes between the two steps, and lengths cut to whole pixels, as CLIP's processor has them.
    levels = images.round().clamp(0, 255).to(torch.uint8)
    short, long = sorted(images.shape[-2:])
    edge = max(size)
    longer = int(edge * long / short)
    upright = images.shape[-2] > images.shape[-1]
    sides = [longer, edge] if upright else [edge, longer]
    resized = tv.resize(levels, sides, tv.InterpolationMode.BICUBIC)
    top, left = (resized.shape[-2] - size[0]) // 2, (resized.shape[-1] - size[1]) // 2
    return resized[..., top : top + size[0], left : left + size[1]].float()


RESIZE_MODES = {"tf1": _tf1, "clean": _clean, "antialias": _antialias, "crop": _crop}
