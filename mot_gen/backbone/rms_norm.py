"""RMS norms whose weights towers own: UntiedRMSNorm, and for towers of different widths UnevenRMSNorm;
norm_of_heads.

There are several ways to one result, since what is fast differs. On a CPU a Function of our own takes 0.7 of the time
of `F.rms_norm` and its backward pass. On a GPU, and in compiled programs, `F.rms_norm` is one kernel, and each token
takes its tower's row of weights. A single token without gradients takes as few operations as there can be.

Shapes: T tokens, E towers, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.routing import Owned, Routing, rows_in_sequence, rows_of


class UntiedRMSNorm(Owned):
    """x / rms(x) * weight over the last dimension, one weight per tower: weight (towers, D). Zhang & Sennrich 2019.
    offset: is added to the weight (Gemma: 1)."""

    def __init__(self, dim: int, towers: int = 1, eps: float = 1e-5, offset: float = 0.0):
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((towers, dim), 1.0 - offset))

    @property
    def factors(self) -> Tensor:
        """(towers, D) what normed values are multiplied by."""
        return self.weight + self.offset if self.offset else self.weight

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (T, ..., D) in tower order."""
        only = self._only(routing)
        if only is not None:
            return self._by_one(x, only)
        if _is_eager_on_cpu(x):
            return _RMSNorm.apply(x.float(), self.factors, self.eps, routing.counts).to(x.dtype)
        return self._by_rows(x, rows_of(self.factors, routing))

    def in_sequence(self, x: Tensor, routing: Routing) -> Tensor:
        """x (T, heads, D) in sequence order."""
        only = self._only(routing)
        if only is not None:
            return self._by_one(x, only)
        if _is_eager_on_cpu(x):
            return _RMSNormOfHeads.apply(x.float(), self.factors, self.eps, routing.tower, routing.members).to(x.dtype)
        return self._by_rows(x, rows_in_sequence(self.factors, routing))

    def of_one(self, routing: Routing) -> Callable[[Tensor], Tensor]:
        """The norm of x (T, D), tokens of the tower `routing.only`, without gradients."""
        weight = rows_of(self.factors, routing)
        if weight.device.type == "cpu":
            return partial(_in_fp32, weight=weight.float(), eps=self.eps)
        return partial(F.rms_norm, normalized_shape=weight.shape, weight=weight, eps=self.eps)

    def _only(self, routing: Routing) -> int | None:
        """The one row of weights that all tokens have, if there is one."""
        return 0 if len(self.weight) == 1 else routing.only

    def _by_one(self, x: Tensor, tower: int) -> Tensor:
        if not _is_eager_on_cpu(x):
            own = self.factors[tower].float()
            return F.rms_norm(x.float(), own.shape, own, self.eps).to(x.dtype)
        if not torch.is_grad_enabled():  # a Function costs more than the norm of a single token
            return _in_fp32(x, self.factors[tower].float(), self.eps)
        weight = self.factors if len(self.weight) == 1 else self.factors[tower : tower + 1]
        # The casts stand outside: under torch.compile a Function that ends in a cast of nothing gets no gradient.
        return _RMSNorm.apply(x.float(), weight, self.eps, None).to(x.dtype)

    def _by_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """rows: (T, D) the weights of each token."""
        rows = rows.view(len(rows), *[1] * (x.dim() - 2), rows.shape[-1])
        return (F.rms_norm(x.float(), x.shape[-1:], None, self.eps) * rows).to(x.dtype)


class UnevenRMSNorm(Owned):
    """`UntiedRMSNorm` over each tower's own width: weight.e (1, dims[e])."""

    def __init__(self, dims: Sequence[int], eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.ParameterList(nn.Parameter(torch.ones(1, dim)) for dim in dims)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        pieces = []
        for part, weight in zip(x.split(routing.counts), self.weight):
            y = _RMSNorm.apply(part[:, : weight.shape[1]].float(), weight, self.eps, None).to(x.dtype)
            pieces.append(F.pad(y, (0, x.shape[1] - weight.shape[1])))
        return torch.cat(pieces)


def norm_of_heads(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (T, heads, D) / rms(x) * weight (heads, D), in fp32; no gradient is wanted."""
    if _is_eager_on_cpu(x):
        return _rms_norm(x, weight, eps)
    return F.rms_norm(x, x.shape[-1:], None, eps).mul_(weight)


def _is_eager_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _scale(x: Tensor, eps: float) -> Tensor:
    """1 / rms(x), (..., 1)."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return mean_square.add_(eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    # Tokens in tower order. It knows towers without a (T, D) gather.
    @staticmethod
    def forward(ctx, x, weight, eps, counts):
        scale = _scale(x, eps)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        ctx.save_for_forward(normed, scale, weight)
        ctx.counts = counts
        return _times_weight(normed, weight, counts)

    @staticmethod
    def jvp(ctx, x_tangent, weight_tangent, *_):
        normed, scale, weight = ctx.saved_tensors
        tangent = _times_weight(_tangent(x_tangent, normed, scale), weight, ctx.counts)
        return tangent if weight_tangent is None else tangent + _times_weight(normed, weight_tangent, ctx.counts)

    @staticmethod
    def backward(ctx, grad):
        normed, scale, weight = ctx.saved_tensors
        product = grad * normed
        parts = [product] if ctx.counts is None else product.split(ctx.counts)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.stack([part.reshape(-1, part.shape[-1]).sum(0) for part in parts])
        inner = torch.cat([part @ w for part, w in zip(parts, weight.to(grad.dtype))]) / grad.shape[-1]
        grad_x = _times_weight(grad, weight, ctx.counts).addcmul_(normed, inner[..., None], value=-1).mul_(scale)
        return grad_x, grad_weight, None, None


def _tangent(x_tangent: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """The tangent of x / rms(x), in forward mode."""
    return (x_tangent - normed * (normed * x_tangent).mean(-1, keepdim=True)) * scale


def _times_weight(x: Tensor, weight: Tensor, counts: list[int] | None) -> Tensor:
    if counts is None:
        return x * weight[0]
    out = torch.empty_like(x)  # written part by part: a torch.cat would copy it once more
    for part, w, place in zip(x.split(counts), weight.unbind(0), out.split(counts)):
        torch.mul(part, w, out=place)
    return out


class _RMSNormOfHeads(torch.autograd.Function):
    # Tokens in sequence order, x (T, heads, D). A row of weights for each token costs little beside its heads.
    @staticmethod
    def forward(ctx, x, weight, eps, tower, members):
        scale = _scale(x, eps)
        normed = x * scale
        rows = weight.index_select(0, tower)[:, None]
        ctx.save_for_backward(normed, scale, rows, members)
        ctx.save_for_forward(normed, scale, rows, members)
        ctx.tower = tower  # for forward mode
        return normed * rows

    @staticmethod
    def jvp(ctx, x_tangent, weight_tangent, *_):
        normed, scale, rows, _members = ctx.saved_tensors
        tangent = _tangent(x_tangent, normed, scale) * rows
        if weight_tangent is None:
            return tangent
        return tangent + normed * weight_tangent.index_select(0, ctx.tower)[:, None]

    @staticmethod
    def backward(ctx, grad):
        normed, scale, rows, members = ctx.saved_tensors
        product = grad * normed
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = members.to(grad.dtype) @ product.sum(1)
        inner = product.mul_(rows).sum(-1, keepdim=True).div_(grad.shape[-1])
        grad_x = (grad * rows).addcmul_(normed, inner, value=-1).mul_(scale)
        return grad_x, grad_weight, None, None, None


def _in_fp32(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _rms_norm(x.float(), weight, eps).to(x.dtype)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """F.rms_norm in five operations; on a CPU it takes eight, 3% of a decoding step more."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = torch.addcmul(_constant(eps), length, length, value=1 / x.shape[-1]).rsqrt_()
    return (x * scale).mul_(weight)


@cache
def _constant(value: float) -> Tensor:
    with torch.inference_mode(False):  # else it could serve inference alone
        return torch.tensor(value, dtype=torch.float32, device="cpu")
