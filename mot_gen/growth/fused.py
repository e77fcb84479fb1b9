"""Growth: two trained models in one, by optimal transport (OT fusion, arXiv 2310.05719).

The second model's feed-forward channels, groups of heads, heads within a group and channels of their values are brought
into the order in which they are nearest to the first's, and the weights are averaged. Marginals are uniform and the
sizes equal, so that the transport plan is a permutation (`linear_sum_assignment`), and the permuted model computes what
it did. Where a part knows heads by their numbers, as routed heads do, they stay in their order. Queries and keys keep
their channels, which rotary positions tell apart; the residual stream stays as it is, so that the two should come from
one start.

Shapes: E towers, F feed-forward width, G groups of heads, R heads of a group, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mot_gen.backbone.head_choices import every
from mot_gen.backbone.mixers import attention, stick_breaking
from mot_gen.errors import InputError, require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel


@dataclass(frozen=True)
class Growth(base.Growth):
    """share: of the first model in the average."""

    share: float = 0.5

    needs_other = True

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        assert other is not None, "it needs another"
        if base.shapes_of(model) != base.shapes_of(other):
            raise InputError("--grow fused: the two models differ in their parameters; give two runs of one recipe")
        require(0 <= self.share <= 1, f"share={self.share}: must be from 0 to 1")
        base.require_gated(model, "fused")
        moved = base.rebuild(other)
        for first, second in zip(base.blocks_of(model), base.blocks_of(moved)):
            align_feed_forward(first.ffn, second.ffn)
            if _moves_heads(first):
                align_heads(first, second)
        made = base.rebuild(model)
        for own, parameter in zip(made.parameters(), moved.parameters()):
            own.lerp_(parameter, 1 - self.share)
        return made


def _moves_heads(block: Any) -> bool:
    """Whether nothing but the projections knows a layer's heads by their numbers; else they keep their order."""
    own = block.parts
    plain = type(own.mixer) in (attention.Mixer, stick_breaking.Mixer) and own.mixer.qk_norm != "layer"
    return plain and type(own.head_choice) is every.HeadChoice and own.bias.empty


def nearest_order(own: Tensor, other: Tensor) -> Tensor:
    """own, other (n, ...) -> the order of the second's items in which they are nearest to the first's."""
    first, second = (each.reshape(len(each), -1).double() for each in (own, other))
    cost = torch.cdist(first, second).square()
    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1])


def align_feed_forward(own: Any, other: Any) -> None:
    """Put the second unit's channels into the order of the first's, tower by tower."""
    for tower in range(len(own.down.weight)):
        align_tower(own, tower, other, tower)


def align_tower(own: Any, first: int, other: Any, second: int) -> None:
    """Put the channels of the second unit's tower `second` into the order of those of the first unit's `first`."""
    order = nearest_order(_channels(own, first), _channels(other, second))
    gate, up = other.gate_up.weight[second].chunk(2)
    other.gate_up.weight[second] = torch.cat([gate[order], up[order]])
    other.down.weight[second] = other.down.weight[second][:, order]


def _channels(unit: Any, tower: int) -> Tensor:
    """(F, 3 D) what a tower's hidden channels read and write."""
    gate, up = unit.gate_up.weight[tower].chunk(2)
    return torch.cat([gate, up, unit.down.weight[tower].t()], 1)


def align_heads(own: Any, other: Any) -> None:
    """Put the second layer's groups, heads and channels of values into the order of the first's. All towers of a layer
    attend together, and so are moved alike."""
    first, second = _Heads(own), _Heads(other)
    groups = nearest_order(first.of_groups(), second.of_groups())
    second.take(groups)
    for group in range(second.groups):
        heads = nearest_order(first.of_heads(group), second.of_heads(group))
        second.q[group], second.out[group] = second.q[group][heads], second.out[group][heads]
        channels = nearest_order(first.of_values(group), second.of_values(group))
        second.v[group], second.out[group] = second.v[group][channels], second.out[group][:, channels]
    second.write(other)


class _Heads:
    """A layer's projections by group: q (G, R, K, E, D), k and v (G, K, E, D), out (G, R, K, E, D)."""

    def __init__(self, block: Any):
        self.groups, self.per = block.kv_heads, block.heads // block.kv_heads
        weight = block.qkv.weight.movedim(1, 0).unflatten(0, (-1, block.head_dim))  # (H + 2 G, K, E, D)
        if block.qkv.bias is not None:
            raise InputError("--grow fused: biases of q, k and v are not moved; give a model without qkv_bias")
        q, k, v = weight.split([block.heads, self.groups, self.groups])
        self.q, self.k, self.v = q.unflatten(0, (self.groups, -1)).clone(), k.clone(), v.clone()
        self.out = block.out.weight.movedim(2, 0).unflatten(0, (self.groups, self.per, -1)).clone()

    def of_groups(self) -> Tensor:
        """(G, ...) what does not depend on the order of heads and of values' channels."""
        parts = [self.k.flatten(1), self.q.mean(1).flatten(1), self.v.mean(1).flatten(1)]
        return torch.cat(parts, 1)

    def of_heads(self, group: int) -> Tensor:
        return torch.cat([self.q[group].flatten(1), self.out[group].mean(1).flatten(1)], 1)

    def of_values(self, group: int) -> Tensor:
        return torch.cat([self.v[group].flatten(1), self.out[group].movedim(1, 0).flatten(1)], 1)

    def take(self, order: Tensor) -> None:
        self.q, self.k, self.v, self.out = (part[order] for part in (self.q, self.k, self.v, self.out))

    def write(self, block: Any) -> None:
        heads = torch.cat([self.q.flatten(0, 1), self.k, self.v]).flatten(0, 1)
        block.qkv.weight.copy_(heads.movedim(0, 1))
        block.out.weight.copy_(self.out.flatten(0, 2).movedim(0, 2))
