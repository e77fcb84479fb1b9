"""Pictures as callers give and want them: listed, as_output, stacked.

Shapes: N pictures of C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mot_gen.files.image_files import to_pil


def listed(given) -> list:
    """One picture or many -> a list: a list or tuple as it is, a batch (N, ...) of pictures taken apart."""
    is_batch = isinstance(given, (Tensor, np.ndarray)) and given.ndim == 4
    if is_batch or isinstance(given, (list, tuple)):
        return list(given)
    return [given]


def as_output(images: Sequence[Tensor], output_type: str):
    """(C, H, W) in [0, 1] each -> PIL images "pil", a tensor (N, C, H, W) "pt" or an array (N, H, W, C) "np"; a list of
    them where sizes differ."""
    if output_type == "pil":
        return list(map(to_pil, images))
    images = [image.cpu() for image in images]
    if output_type == "pt":
        return stacked(images)
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    return np.stack(arrays) if _alike(images) else arrays


def stacked(tensors: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """One tensor of tensors of one shape; a list of others."""
    return torch.stack(list(tensors)) if _alike(tensors) else list(tensors)


def _alike(tensors: Sequence[Tensor]) -> bool:
    return len({tensor.shape for tensor in tensors}) == 1
