"""product_by_group: rows of several groups, each times its group's matrix, in one operation.

`F.grouped_mm` serves the eager CPU in fp32 and the GPU in bf16, the two cases where it exists and wins; elsewhere
(compiled CPU, fp64, fp32 on a GPU) the groups are multiplied one after the other.

Functions that end in `WithTangents` add the forward mode to those before them. The compiler breaks off at a Function
that has one, so compiled programs take the plain ones.

Shapes: T rows of E groups, one group after the other.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class RowGroups(Protocol):
    """Where groups are. ends: (E,) int32, one past each group's last row."""

    ends: Tensor

    @property
    def counts(self) -> list[int]:
        """The E numbers of rows, on the host, which may have to wait for them."""
        ...


def product_by_group(x: Tensor, weight: Tensor, groups: RowGroups) -> Tensor:
    """x (T, in), weight (E, out, in) -> (T, out), under autocast in its dtype."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    if _has_grouped_mm(x, weight):
        function = _GroupedProduct if torch.compiler.is_compiling() else _GroupedProductWithTangents
        return function.apply(x, weight, groups.ends)
    if torch.compiler.is_compiling():
        products = [F.linear(own, matrix) for own, matrix in zip(x.split(groups.counts), weight.unbind(0))]
        return torch.cat(products)
    return _ProductsOneByOne.apply(x, weight, groups.counts)


def _has_grouped_mm(x: Tensor, weight: Tensor) -> bool:
    """Whether `F.grouped_mm` exists for these tensors, and wins."""
    if any(size * weight.element_size() % 16 for size in weight.shape[1:]):  # it wants rows of whole 16 bytes
        return False
    if x.is_cuda:
        return x.dtype == torch.bfloat16
    return x.dtype == torch.float32 and not torch.compiler.is_compiling()


class _GroupedProduct(torch.autograd.Function):
    # grouped_mm refuses the stride-0 gradient that sum().backward() sends, hence the contiguous().
    @staticmethod
    def forward(ctx, x, weight, ends):
        ctx.save_for_backward(x, weight, ends)
        return F.grouped_mm(x, weight.transpose(-2, -1), offs=ends)

    @staticmethod
    def backward(ctx, grad):
        x, weight, ends = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = F.grouped_mm(grad, weight, offs=ends) if ctx.needs_input_grad[0] else None
        grad_weight = F.grouped_mm(grad.t(), x, offs=ends) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None


class _GroupedProductWithTangents(_GroupedProduct):
    @staticmethod
    def forward(ctx, x, weight, ends):
        ctx.save_for_forward(x, weight, ends)
        return _GroupedProduct.forward(ctx, x, weight, ends)

    @staticmethod
    def jvp(ctx, x_tangent, weight_tangent, *_):
        x, weight, ends = ctx.saved_tensors
        of_x = F.grouped_mm(x_tangent.contiguous(), weight.transpose(-2, -1), offs=ends)
        if weight_tangent is None:
            return of_x
        return of_x + F.grouped_mm(x, weight_tangent.transpose(-2, -1), offs=ends)


class _ProductsOneByOne(torch.autograd.Function):
    # Each product is written where it belongs: autograd's own way has a copy for every split and cat.
    @staticmethod
    def forward(ctx, x, weight, counts):
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)
        ctx.counts = counts
        return _one_by_one(x, weight, counts)

    @staticmethod
    def jvp(ctx, x_tangent, weight_tangent, *_):
        x, weight = ctx.saved_tensors
        of_x = _one_by_one(x_tangent, weight, ctx.counts)
        return of_x if weight_tangent is None else of_x + _one_by_one(x, weight_tangent, ctx.counts)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        grads = grad.contiguous().split(ctx.counts)
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            for own, matrix, place in zip(grads, weight.unbind(0), grad_x.split(ctx.counts)):
                torch.mm(own, matrix, out=place)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight)
            for own, tokens, place in zip(grads, x.split(ctx.counts), grad_weight.unbind(0)):
                torch.mm(own.t(), tokens, out=place)
        return grad_x, grad_weight, None


def _one_by_one(x: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
    y = x.new_empty(len(x), weight.shape[1])
    for own, matrix, place in zip(x.split(counts), weight.unbind(0), y.split(counts)):
        torch.mm(own, matrix.t(), out=place)
    return y
