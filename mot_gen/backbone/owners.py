"""The factory of a block's modules, tied or untied: Owners, UnevenOwners, ExpertOwners; owned_parameters; and initial
values: ones, zeros, normal, write_initial_values.

A part of a block asks an `Owners` for its projections and norms, and never who owns them. Each module that is made here
carries two tables about its own parameters, see `routing.Owned`: who owns them, and how they begin.

Shapes: T tokens, D width of the model, F width of a feed-forward.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mot_gen.backbone.rms_norm import UnevenRMSNorm, UntiedRMSNorm
from mot_gen.backbone.routing import Initial, Owned, Routing, UnevenLinear, UntiedLinear

M = TypeVar("M", bound=Owned)


def ones(parameter: Tensor) -> None:
    parameter.fill_(1.0)


def zeros(parameter: Tensor) -> None:
    parameter.fill_(0.0)


def fill(parameter: Tensor, value: float) -> None:
    parameter.fill_(value)


def normal(parameter: Tensor, scale: float = 1.0, alike: bool = True) -> None:
    """Normal with standard deviation scale / sqrt(fan in). alike: all slices begin as copies of one another."""
    shape = parameter.shape[1:] if alike else parameter.shape
    parameter.copy_(torch.randn(shape) * (scale / math.sqrt(parameter.shape[-1])))


def write_initial_values(model: nn.Module) -> None:
    """Write the initial value of every parameter that is not on the meta device, in the order of their names."""
    for module in model.modules():
        if isinstance(module, Owned):
            for name, write in module.initial.items():
                parameter = module.get_parameter(name)
                if not parameter.is_meta:
                    write(parameter)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def owned_parameters(model: nn.Module) -> dict[str, list[int]]:
    """The parameters that towers own, in the order of their names: the tower of each slice."""
    owned: dict[str, list[int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, Owned):
            owned |= {f"{path}.{name}".removeprefix("."): slices for name, slices in module.owned_by.items()}
    return {name: owned[name] for name, _ in model.named_parameters() if name in owned}


class Owners:
    """Makes modules that are tied, or that hold one set of parameters for each tower.

    towers: their names. untied: the names of what each tower owns. sublayers: how many write to the residual stream;
    what they write begins smaller by the square root, so that the stream keeps its scale with depth.
    """

    def __init__(self, towers: Sequence[str], untied: Collection[str], dim: int, eps: float, sublayers: int):
        self.towers, self.untied, self.dim, self.eps = list(towers), untied, dim, eps
        self.residual = 1 / math.sqrt(sublayers)
        self.norm_offset = 0.0  # what norms add to their weights

    def sets(self, name: str) -> int:
        """How many sets of the parameters `name` there are."""
        return len(self.towers) if name in self.untied else 1

    def slices(self, name: str) -> list[int] | None:
        """The tower of each set; None where all towers share one."""
        return list(range(len(self.towers))) if self.sets(name) > 1 else None

    def own(self, module: M, name: str, **initial: Initial) -> M:
        """Note on a module which towers own its parameters, and the initial values of these."""
        slices = self.slices(name)
        module.owned_by = {} if slices is None else dict.fromkeys(initial, slices)
        module.initial = initial
        return module

    def norm(self, name: str) -> nn.Module:
        """An RMS norm of the residual stream."""
        return self.norm_of(name, self.dim)

    def norm_of(self, name: str, dim: int) -> UntiedRMSNorm:
        """An RMS norm of `dim` channels, as of a head. Its weight begins so that with `norm_offset` it is 1."""
        module = UntiedRMSNorm(dim, self.sets(name), self.eps, self.norm_offset)
        initial: Initial = ones
        if self.norm_offset:
            initial = partial(fill, value=1.0 - self.norm_offset)
        return self.own(module, name, weight=initial)

    def linear(self, name: str, into: int, out: int, bias: bool = False, initial: Initial = normal) -> UntiedLinear:
        """A projection between widths that are the same for all towers."""
        module = UntiedLinear(into, out, self.sets(name), bias=bias)
        if bias:
            return self.own(module, name, weight=initial, bias=zeros)
        return self.own(module, name, weight=initial)

    def inward(self, name: str, out: int, bias: bool = False, initial: Initial = normal) -> nn.Module:
        """A projection from the residual stream to `out` channels."""
        return self.linear(name, self.dim, out, bias, initial)

    def outward(self, name: str, into: int) -> nn.Module:
        """A projection from `into` channels to the residual stream."""
        return self.linear(name, into, self.dim, initial=partial(normal, scale=self.residual))

    def up(self, name: str, hidden: int, parts: int = 1) -> nn.Module:
        """`parts` projections in one, from the residual stream to a feed-forward's width."""
        return self.inward(name, parts * hidden)

    def down(self, name: str, hidden: int) -> nn.Module:
        """A projection from a feed-forward's width to the residual stream."""
        return self.outward(name, hidden)

    def channels(self, routing: Routing) -> int:
        """Numbers in the residual stream: the sum over tokens of their tower's width."""
        return sum(routing.counts) * self.dim

    def products(self, routing: Routing, hidden: int) -> int:
        """Multiplications of one of a feed-forward's projections."""
        return sum(routing.counts) * self.dim * hidden


class UnevenOwners(Owners):
    """Towers of different `widths` (F1, arXiv 2509.06951). Their feed-forwards are as wide in proportion."""

    def __init__(self, *as_owners: Any, widths: Sequence[int]):
        super().__init__(*as_owners)
        self.widths = list(widths)

    def norm(self, name: str) -> nn.Module:
        return self._own_each(UnevenRMSNorm(self.widths, self.eps), ones)

    def inward(self, name: str, out: int, bias: bool = False, initial: Initial = normal) -> nn.Module:
        return self._uneven(self.widths, [out] * len(self.widths), initial)

    def outward(self, name: str, into: int) -> nn.Module:
        return self._uneven([into] * len(self.widths), self.widths, partial(normal, scale=self.residual))

    def up(self, name: str, hidden: int, parts: int = 1) -> nn.Module:
        return self._uneven(self.widths, self._hidden(hidden), normal, parts)

    def down(self, name: str, hidden: int) -> nn.Module:
        return self._uneven(self._hidden(hidden), self.widths, partial(normal, scale=self.residual))

    def channels(self, routing: Routing) -> int:
        return sum(count * width for count, width in zip(routing.counts, self.widths))

    def products(self, routing: Routing, hidden: int) -> int:
        sizes = zip(routing.counts, self.widths, self._hidden(hidden))
        return sum(count * width * own for count, width, own in sizes)

    def _hidden(self, hidden: int) -> list[int]:
        """The feed-forward's width in each tower."""
        return [max(1, round(hidden * width / self.dim)) for width in self.widths]

    def _uneven(self, into: Sequence[int], out: Sequence[int], initial: Initial, parts: int = 1) -> UnevenLinear:
        return self._own_each(UnevenLinear(into, out, parts), initial)

    def _own_each(self, module: M, initial: Initial) -> M:
        """As `own`, for a module with a list of weights, one a tower."""
        names = [f"weight.{tower}" for tower in range(len(self.widths))]
        module.owned_by = {name: [tower] for tower, name in enumerate(names)}
        module.initial = dict.fromkeys(names, initial)
        return module


class ExpertOwners(Owners):
    """Sets of parameters for experts in the place of towers. experts: their number in each pool; several pools are
    those of the towers. Experts begin different from one another: alike they would stay alike."""

    def __init__(self, owners: Owners, experts: Sequence[int]):
        super().__init__(owners.towers, owners.untied, owners.dim, owners.eps, 1)
        self.residual, self.experts = owners.residual, list(experts)

    def sets(self, name: str) -> int:
        return sum(self.experts)

    def slices(self, name: str) -> list[int] | None:
        if len(self.experts) == 1:
            return None
        return [tower for tower, number in enumerate(self.experts) for _ in range(number)]

    def linear(self, name: str, into: int, out: int, bias: bool = False, initial: Initial = normal) -> UntiedLinear:
        return super().linear(name, into, out, bias, partial(initial, alike=False))
