"""Tokens sorted by the tower that owns their parameters, and projections over them.

Routing, ExpertRouting, route, all_to: where each tower's tokens are. permute_rows, rows_of, rows_in_sequence: rows by
this order. grouped_linear, UntiedLinear, UnevenLinear: projections. Owned: a module that knows who owns its parameters;
is_adapter. The norms are in rms_norm.py.

A *tower* is a group of modalities that owns parameters. Tokens are sorted by tower once per batch. In that order an
untied projection is one grouped matrix product, and a tied one is an ordinary product over all tokens. All untied
projections go through `grouped_linear`, except those of towers of different widths (F1, arXiv 2509.06951), whose
matrices cannot be stacked. Their tokens stand in rows as wide as the widest tower; what lies beyond a tower's own width
is written as zero and never read.

Shapes: T tokens of a batch, E towers, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone.grouped_products import product_by_group
from mot_gen.backbone.storage.half_storage import HalfStorage


@dataclass
class Routing:
    """Where each tower's tokens are, made once per batch by `route`.

    order, inverse: (T,) int64, sorted = x[order] and x = sorted[inverse]; None where no sorting is needed.
    ends: (E,) int32, one past each tower's last sorted token. counts: the E numbers of tokens.
    only: the tower that has all tokens, as in generation, or None.
    tower, sorted_tower: (T,) int64, the tower of each token in sequence order and in tower order; members and
    sorted_members: (E, T) float, 1 where a token is of a tower, likewise. None where no sorting is needed.
    """

    order: Tensor | None
    inverse: Tensor | None
    ends: Tensor
    counts: list[int]
    only: int | None
    tower: Tensor | None = None
    sorted_tower: Tensor | None = None
    members: Tensor | None = None
    sorted_members: Tensor | None = None

    @property
    def tokens(self) -> int:
        """T, as the host knows it."""
        return sum(self.counts)

    def sort(self, x: Tensor) -> Tensor:
        """(T, ...) in sequence order -> tower order."""
        if self.order is None or self.inverse is None:
            return x
        return permute_rows(x, self.order, self.inverse)

    def unsort(self, x: Tensor) -> Tensor:
        """(T, ...) in tower order -> sequence order."""
        if self.order is None or self.inverse is None:
            return x
        return permute_rows(x, self.inverse, self.order)


class ExpertRouting(Routing):
    """Routing of rows that are sorted by expert.

    If the experts were chosen on a device, the host may not know how many rows each has: `counts` then waits for the
    device.
    """

    def __init__(self, each: Tensor, rows: int, known: list[int] | None = None):
        """each: (E,) how many rows each expert has. rows: their sum. known: `each`, if the host knows it."""
        self.order = self.inverse = self.only = self.sorted_tower = None
        self.ends, self._each, self._rows = each.cumsum(0, dtype=torch.int32), each, rows
        if known is not None:
            self.counts = known

    @cached_property
    def counts(self) -> list[int]:  # type: ignore[override]  # a class may not declare an attribute as lazily made
        return self._each.tolist()

    @property
    def tokens(self) -> int:
        return self._rows


def route(tower: Tensor, towers: int, counts: list[int] | None = None) -> Routing:
    """Routing of tokens whose tower numbers are `tower`, (T,) int64 in [0, towers). counts: how many tokens each tower
    has, where the host knows it; else it waits for the device to count them."""
    if counts is None:
        counts = torch.bincount(tower, minlength=towers).tolist()
    numbers = torch.arange(towers, device=tower.device)
    ends = (tower <= numbers[:, None]).sum(1).to(torch.int32)
    if tower.numel() in counts:
        return Routing(None, None, ends, counts, only=counts.index(tower.numel()))
    order = torch.argsort(tower, stable=True)
    sorted_tower = tower[order]
    members, sorted_members = ((each == numbers[:, None]).float() for each in (tower, sorted_tower))
    return Routing(order, order.argsort(), ends, counts, None, tower, sorted_tower, members, sorted_members)


def all_to(tower: int, tokens: int, towers: int) -> Routing:
    """Routing of tokens that all belong to one tower."""
    counts = [0] * towers
    counts[tower] = tokens
    ends = torch.tensor(counts, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return Routing(None, None, ends, counts, tower)


# Functions named `WithTangents` add forward-mode differentiation (`jvp`) to those before them. torch.compile breaks the
# graph at a Function with a `jvp`, so compiled programs use the plain ones.


class _PermuteRows(torch.autograd.Function):
    # The gradient of a permutation is the inverse permutation, a gather; autograd's own would be a scatter-add.
    @staticmethod
    def forward(ctx, x, order, inverse):
        ctx.save_for_backward(order, inverse)
        ctx.order = order  # for forward mode
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, grad):
        _order, inverse = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class _PermuteRowsWithTangents(_PermuteRows):
    @staticmethod
    def jvp(ctx, x_tangent, *_):
        return x_tangent.index_select(0, ctx.order)


def permute_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """x[order] along the first dimension, for a permutation whose inverse is known."""
    function = _PermuteRows if torch.compiler.is_compiling() else _PermuteRowsWithTangents
    return function.apply(x, order, inverse)


def grouped_linear(x: Tensor, weight: Tensor, routing: Routing) -> Tensor:
    """x (T, in) sorted by tower, weight (E, out, in) -> (T, out): every token times its own tower's matrix.

    E = 1 is a tied projection.
    """
    if weight.shape[0] == 1:
        return F.linear(x, weight[0])
    if routing.only is not None:
        return F.linear(x, weight[routing.only])
    return product_by_group(x, weight, routing)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to what is added to a projection (mot_gen/backbone/lora.py)."""
    return ".adapter." in name


def rows_of(table: Tensor, routing: Routing) -> Tensor:
    """Each token's row of a table (E, ...), by its tower, in tower order: (T, ...), or (...) if all have the same."""
    if len(table) == 1:
        return table[0]
    if routing.only is not None:
        return table[routing.only]
    if routing.sorted_tower is None:  # of experts, whose tokens come sorted
        lengths = routing.ends.diff(prepend=routing.ends.new_zeros(1))
        return table.repeat_interleave(lengths, dim=0, output_size=routing.tokens)
    return _rows(table, routing.sorted_tower, routing.sorted_members)


def rows_in_sequence(table: Tensor, routing: Routing) -> Tensor:
    """As `rows_of`, in sequence order."""
    if len(table) == 1 or routing.only is not None:
        return rows_of(table, routing)
    return _rows(table, routing.tower, routing.members)


def _rows(table: Tensor, tower: Tensor | None, members: Tensor | None) -> Tensor:
    function = _Rows if torch.compiler.is_compiling() else _RowsWithTangents
    return function.apply(table, tower, members)


class _Rows(torch.autograd.Function):
    # The gradient of the rows is a product with (E, T). Autograd's own adds T rows to E, one after the other.
    @staticmethod
    def forward(ctx, table, tower, members):
        ctx.save_for_backward(members)
        ctx.tower = tower  # for forward mode
        return table.index_select(0, tower)

    @staticmethod
    def backward(ctx, grad):
        (members,) = ctx.saved_tensors
        grad_table = members.to(grad.dtype) @ grad.flatten(1)
        return grad_table.view(-1, *grad.shape[1:]), None, None


class _RowsWithTangents(_Rows):
    @staticmethod
    def jvp(ctx, table_tangent, *_):
        return table_tangent.index_select(0, ctx.tower)


Initial = Callable[..., object]  # writes the initial value of the parameter that it is given


class Owned(nn.Module):
    """A module that knows who owns its parameters, and their initial values. `owners.Owners` sets both.

    owned_by: name of a parameter that towers own -> the tower of each slice along its first dimension. initial: name ->
    the function that writes the initial value.
    """

    owned_by: Mapping[str, list[int]] = MappingProxyType({})
    initial: Mapping[str, Initial] = MappingProxyType({})


class UntiedLinear(HalfStorage, Owned):
    """A projection with one matrix per tower, stacked: weight (towers, out, in), and, if asked for, bias (towers, out).
    towers = 1 ties it. adapter: None, or what is added, called like the projection itself (backbone/lora.py)."""

    def __init__(self, in_features: int, out_features: int, towers: int = 1, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(towers, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(towers, out_features)) if bias else None
        self.adapter: Any = None  # a `lora.LowRank`, which stands on this file

    def forward(self, x: Tensor, routing: Routing, again: Callable[[], Tensor] | None = None) -> Tensor:
        """x (T, in) sorted by tower -> (T, out). again: recomputes x in the backward pass, see `learns_beside`."""
        if self.adapter is not None:
            y = self._with_adapter(x, routing, again)
        elif self.in_half:
            y = self._half_products(x, routing)
        else:
            y = grouped_linear(x, self.weight, routing)
        if self.bias is None:
            return y
        return y + rows_of(self.bias, routing)

    def _with_adapter(self, x: Tensor, routing: Routing, again: Callable[[], Tensor] | None) -> Tensor:
        """The products and what the adapter adds to them."""
        if self.learns_beside:
            return self.adapter.beside(x, self.weight, routing, again)
        y = self._half_products(x, routing) if self.in_half else grouped_linear(x, self.weight, routing)
        return y + self.adapter(x, routing)

    @property
    def learns_beside(self) -> bool:
        """Whether an adapter learns beside frozen weights, which is cheaper in one operation. In the backward pass only
        the adapter then needs x, which is recomputed by `again` where that is given."""
        learns = self.adapter is not None and torch.is_grad_enabled()
        return learns and not (self.weight.requires_grad or torch.compiler.is_compiling())

    def _half_products(self, x: Tensor, routing: Routing) -> Tensor:
        assert self.halves is not None, "in_half says that it is"
        if len(self.halves) == 1:
            return self.halves[0](x)
        if routing.only is not None:
            return self.halves[routing.only](x)
        return torch.cat([matrix(part) for matrix, part in zip(self.halves, x.split(routing.counts))])


@torch.no_grad()
def store_for_decoding(module: nn.Module) -> None:
    """Store every projection that widens column by column in memory; its values and shape stay the same.

    A CPU multiplies one token by such a matrix in 0.55 of the time, and many in the same time; where a projection
    narrows, rows are faster (`python -m benchmarks generation_peer`).
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, UntiedLinear)) and layer.weight.shape[-2] > layer.weight.shape[-1]:
            layer.weight.data = layer.weight.data.transpose(-2, -1).contiguous().transpose(-2, -1)


class UnevenLinear(Owned):
    """A bias-free projection with a matrix of its own shape per tower: weight.e (1, parts * out_features[e],
    in_features[e]). `parts` products stand side by side, each in columns as many as the widest has."""

    def __init__(self, in_features: Sequence[int], out_features: Sequence[int], parts: int = 1):
        super().__init__()
        self.in_features, self.parts, self.widest = list(in_features), parts, max(out_features)
        shapes = zip(out_features, in_features)
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(1, parts * out, into)) for out, into in shapes)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        pieces = []
        for part, weight, width in zip(x.split(routing.counts), self.weight, self.in_features):
            y = F.linear(part[:, :width], weight[0]).unflatten(1, (self.parts, -1))
            pieces.append(F.pad(y, (0, self.widest - y.shape[2])).flatten(1))
        return torch.cat(pieces)
