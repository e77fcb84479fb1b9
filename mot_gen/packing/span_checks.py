"""check_span: refuses a span that the model cannot hold, before anything is written."""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.scales import as_scales, token_count
from mot_gen.sequence.modality import Modality, Span


def check_span(span: Span, modality: Modality, where: str) -> None:
    """InputError, which begins with `where`, unless the span's values and grid are what its modality holds."""
    require(len(span), f"{where}: is empty; leave the span out")
    _check_grid(span, modality, where)
    if modality.vocab_size is not None:
        _check_ids(span.values, modality.vocab_size, where)
    else:
        _check_latents(span.values, modality.channels, where)


def _check_grid(span: Span, modality: Modality, where: str) -> None:
    if span.grid is not None:
        rows, columns = span.grid
        require(rows * columns == len(span), f"{where}: a grid of {rows} x {columns} does not hold {len(span)} tokens")
    if modality.scales:
        count = token_count(as_scales(modality.scales))
        require(len(span) == count, f"{where}: {len(span)} tokens are not the {count} of its scales")
    modality.framed(span.grid)  # refuses a span without the grid that its frame states


def _check_ids(values: Tensor, size: int, where: str) -> None:
    """values: (n,) integer ids, each at least 0 and below `size`."""
    if values.dim() != 1 or values.is_floating_point():
        raise InputError(f"{where}: needs integer ids of shape (n,), got {values.dtype} {tuple(values.shape)}")
    low, high = (value.item() for value in values.aminmax())
    for id in (low, high):
        require(0 <= id < size, f"{where}: id {id} is outside the vocabulary of {size}")


def _check_latents(values: Tensor, channels: int | None, where: str) -> None:
    """values: (n, channels) finite numbers."""
    if values.dim() != 2 or values.shape[1] != channels:
        raise InputError(f"{where}: needs latents of shape (n, {channels}), got {tuple(values.shape)}")
    require(torch.isfinite(values).all(), f"{where}: latents hold NaN or infinity")
