"""batch_of: pictures or features as pipelines and other libraries give them, as the tensor that metrics take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mot_gen.errors import expect, require
from mot_gen.eval.images.sources import decode, from_array

CHANNELS = (1, 3)


def batch_of(batch: Any) -> Tensor:
    """A tensor as it is; an array as one, (N, H, W, C) as (N, C, H, W); and a list of pictures of one size, stacked.

    A picture is a tensor (C, H, W), an array, or what `load_image` reads, such as a PIL image. InputError for others.
    """
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, np.ndarray):
        return _of_array(batch)
    is_listed = isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)) and len(batch) > 0
    expect(is_listed, "a batch must be a tensor, an array or a list of pictures", batch)
    pictures = [_picture(each) for each in batch]
    sizes = sorted({tuple(picture.shape) for picture in pictures})
    remedy = "update once for each size, or resize them"
    require(len(sizes) == 1, f"a batch holds pictures of several sizes, {sizes[0]} and {sizes[-1]}; {remedy}")
    return torch.stack(pictures)


def _of_array(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(array))  # a copy: torch wants arrays that may be written to
    if tensor.ndim == 4 and tensor.shape[1] not in CHANNELS and tensor.shape[3] in CHANNELS:
        return tensor.permute(0, 3, 1, 2)
    return tensor


def _picture(picture: Any) -> Tensor:
    """(C, H, W), or whatever shape a tensor has."""
    if isinstance(picture, Tensor):
        return picture
    return from_array(picture) if isinstance(picture, np.ndarray) else decode(picture)
