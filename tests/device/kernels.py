"""Kernels that CUDA has and a CPU has not, or with other rules: ON_DEVICE. DeviceMismatch: what CUDA refuses."""

from __future__ import annotations

import torch
from torch import Tensor


class DeviceMismatch(RuntimeError):
    """What CUDA would have refused."""


def _grouped_mm(a: Tensor, b: Tensor, offs: Tensor, bias=None, out_dtype=None) -> Tensor:
    """PyTorch's CUDA kernel: its rules, and its result, one product after the other."""
    for x in (a, b):
        wide, last, other = 16 // x.element_size(), x.stride(-1), x.stride(-2)
        rows = last == 1 and other % wide == 0 and other >= x.shape[-1]
        columns = other == 1 and last % wide == 0 and last >= x.shape[-2]
        if x.dtype != torch.bfloat16 or x.data_ptr() % 16 or not (rows or columns):
            raise DeviceMismatch(f"grouped_mm: {x.dtype} of {tuple(x.shape)} with strides {x.stride()}")
    if offs.dtype != torch.int32:
        raise DeviceMismatch("grouped_mm: offs must be int32")
    ends = offs.tolist()
    parts = list(zip([0, *ends], ends))
    if b.dim() == 3:
        return torch.cat([a[i:j] @ w for (i, j), w in zip(parts, b)])
    return torch.stack([a[:, i:j] @ b[i:j] for i, j in parts])


def _rms_norm_backward(
    grad: Tensor, x: Tensor, shape: list[int], scale: Tensor, weight: Tensor | None, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """PyTorch's CUDA kernel of this name, which a CPU has not. scale: 1 / rms(x). shape: one dimension, the last."""
    normed = x * scale
    weighted = grad if weight is None else grad * weight
    grad_x = (weighted - normed * (weighted * normed).mean(-1, keepdim=True)) * scale
    grad_weight = None if weight is None else (grad * normed).flatten(0, -2).sum(0)
    return grad_x if wanted[0] else None, grad_weight if wanted[1] else None


# Views that say what is to be done with their values: below the dispatch mode PyTorch would forget it.
VIEWS = {"_conj": torch.conj_physical, "_neg_view": torch.neg}
ON_DEVICE = {"_grouped_mm": _grouped_mm, "_fused_rms_norm_backward": _rms_norm_backward, **VIEWS}
