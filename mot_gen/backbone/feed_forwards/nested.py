"""Nested feed-forwards (MatFormer, arXiv 2310.07707): the first m of F hidden channels are a feed-forward of their own.

    FFN_m(x) = down[:, :m] (activation(gate[:m] x) * up[:m] x)        m in F / {1, 2, 4, 8}

While it learns, every batch draws one of the widths, for all layers; the published recipe instead adds up the gradients
of all widths, at their whole cost. Afterwards a model has any width that one asks for, each tower its own: see
`width_and_experts`. `flops` of a model that learns is the mean of its widths.

Shapes: n tokens, D width of the model, F width of the unit, m the width in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.feed_forwards import gated
from mot_gen.backbone.owners import Owners
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.routing import Routing, UntiedLinear, grouped_linear


@dataclass(frozen=True)
class FeedForward(gated.FeedForward):
    """divisors: F over each of these is a width that is learned. ffn_dim, multiple_of: as of `gated`."""

    divisors: Sequence[int] = (1, 2, 4, 8)

    matrices = 0  # it is no unit of experts

    def check(self, config: Any, towers: Sequence[str]) -> None:
        self.refuse_experts(config)
        if config.widths:
            raise self.refuse("kind", "nested slices matrices that are as wide as the model; drop backbone.widths")
        most = self.ffn_dim or 0
        fitting = [divisor for divisor in self.divisors if 1 <= divisor <= most]
        if not fitting or fitting != list(self.divisors):
            complaint = f"must be from 1 to the width, {self.ffn_dim}, got {list(self.divisors)}"
            raise self.refuse("divisors", complaint)

    def unit(self, block: Layer, owners: Owners, times: int = 1) -> nn.Module:
        assert self.ffn_dim is not None, "fit sets it"
        gate_up, down = owners.up("ffn", self.ffn_dim, parts=2), owners.down("ffn", self.ffn_dim)
        return NestedUnit(gate_up, down, block.parts.activation, owners, self.ffn_dim)

    def repeats(self, block: Layer) -> bool:
        return False

    def prepare(self, block: Layer, batch: Batch) -> None:
        batch.once(repr(self), lambda: self._drawn() if block.training else None)

    def _drawn(self) -> int:
        divisor = self.divisors[int(torch.randint(len(self.divisors), ()))]
        return (self.ffn_dim or 0) // divisor

    def forward(self, block: Layer, x: Tensor, plan: Plan) -> Tensor:
        drawn = plan.made[repr(self)]
        widths = block.ffn.widths if drawn is None else [drawn] * len(block.owners.towers)
        return block.ffn.narrowed(x, plan.routing, widths)

    def flops(self, block: Layer, batch: Batch) -> int:
        learned = [(self.ffn_dim or 0) // divisor for divisor in self.divisors]
        mean = [sum(learned) / len(learned)] * len(block.owners.towers)
        widths = mean if block.training else block.ffn.widths
        hidden = sum(count * width for count, width in zip(batch.routing.counts, widths))
        return round(2 * 3 * block.owners.dim * hidden)


class NestedUnit(gated.GatedLinearUnit):
    """widths: that of each tower, where nothing is drawn; F at first."""

    gate_up: UntiedLinear
    down: UntiedLinear

    def __init__(self, gate_up: nn.Module, down: nn.Module, activation: parts.Activation, owners: Owners, hidden: int):
        super().__init__(gate_up, down, activation, owners)
        if self.learned is not None:
            raise activation.refuse("kind", "feed_forward nested needs a function of each channel alone, such as silu")
        self.hidden, self.widths = hidden, [hidden] * len(owners.towers)
        self._cut: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def narrowed(self, x: Tensor, routing: Routing, widths: Sequence[int]) -> Tensor:
        """x (n, D) -> (n, D), each tower of its width."""
        if all(width == self.hidden for width in widths):
            return self(x, routing)
        if len(set(widths)) == 1:
            gate_up, down = self._slices(widths[0])
            return grouped_linear(self.activated(grouped_linear(x, gate_up, routing)), down, routing)
        found = []
        for tower, (part, width) in enumerate(zip(x.split(routing.counts), widths)):
            own = tower if len(self.down.weight) > 1 else 0
            gate_up, down = (weight[own] for weight in self._slices(width))
            found.append(F.linear(self.activated(F.linear(part, gate_up)), down))
        return torch.cat(found)

    def _slices(self, width: int) -> tuple[Tensor, Tensor]:
        """(E, 2 m, D) and (E, D, m); kept while nothing is learned and the weights are as they are."""
        gate_up, down = self.gate_up.weight, self.down.weight
        if torch.is_grad_enabled():
            return _first(gate_up, down, width)
        key = width, gate_up._version, down._version
        if key not in self._cut:
            self._cut = {other: kept for other, kept in self._cut.items() if other[1:] == key[1:]}
            self._cut[key] = _first(gate_up, down, width)
        return self._cut[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_cut": {}}


def _first(gate_up: Tensor, down: Tensor, width: int) -> tuple[Tensor, Tensor]:
    gate, up = gate_up.chunk(2, 1)
    return torch.cat([gate[:, :width], up[:, :width]], 1), down[..., :width].contiguous()
