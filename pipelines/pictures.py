"""Pictures as callers give and want them: as_list, as_output, stack_or_list.

Shapes: N pictures of C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mot_gen.files.image_files import to_pil


def as_list(given) -> list:
    """One picture or many -> a list: a list or tuple as it is, a batch (N, ...) of pictures taken apart."""
    is_batch = isinstance(given, (Tensor, np.ndarray)) and given.ndim == 4
    if is_batch or isinstance(given, (list, tuple)):
        return list(given)
    return [given]


def as_output(images: Sequence[Tensor], output_type: str):
    """Pictures (C, H, W) in [0, 1] in the form that the caller asked for.

    output_type: "pil", PIL images; "pt", a tensor (N, C, H, W); "np", an array (N, H, W, C). Tensors and arrays come as
    a list where sizes differ.
    """
    if output_type == "pil":
        return list(map(to_pil, images))
    found = stack_or_list([image.cpu() for image in images])
    if output_type == "pt":
        return found
    if isinstance(found, Tensor):
        return _with_channels_last(found)
    return list(map(_with_channels_last, found))


def _with_channels_last(image: Tensor) -> np.ndarray:
    """(..., C, H, W) -> (..., H, W, C)."""
    return image.movedim(-3, -1).numpy()


def stack_or_list(tensors: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Tensors of one shape as one tensor; others as a list."""
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) == 1:
        return torch.stack(list(tensors))
    return list(tensors)
