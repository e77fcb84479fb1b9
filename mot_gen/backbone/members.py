"""Several backbones over one sequence, which have nothing else in common: SideBySide, Plans.

Shapes: B rows, S slots, D width of all members together.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.backbone.batch import Plan
from mot_gen.backbone.cache import Cache
from mot_gen.backbone.routing import Routing
from mot_gen.errors import require
from mot_gen.sequence import Layout


@dataclass
class Plans:
    """The plan of each member."""

    each: list[Plan]

    @property
    def routing(self) -> Routing:
        return self.each[0].routing


class SideBySide(nn.Module):
    """A backbone (see `mot_gen.backbone`) made of others of one config, each of an equal part of the width."""

    def __init__(self, config: Any, members: Sequence[Any]):
        super().__init__()
        self.config, self.each = config, list(members)
        self.members = nn.ModuleList(self.each)
        first = self.each[0]
        self.dim = len(self.each) * first.dim
        self.towers, self.tower_numbers, self.causal = first.towers, first.tower_numbers, first.causal
        self.compiled = self.gradient_checkpointing = False

    def __setattr__(self, name: str, value: Any) -> None:
        """Switches that are set on the whole are set on every member."""
        require(name != "on_disk", "weights='disk': is not for transformers side by side; leave it out")
        super().__setattr__(name, value)
        if name in ("compiled", "gradient_checkpointing"):
            for member in self.each:
                setattr(member, name, value)

    @property
    def blocks(self) -> list[Any]:
        """The blocks of all members, one member after the other."""
        return [block for member in self.each for block in member.blocks]

    @property
    def tower_of(self) -> Tensor:
        return self.each[0].tower_of

    def row_slots(self, length: int, device: torch.device) -> int:
        """How many slots a row of so many tokens should have on a device."""
        return self.each[0].row_slots(length, device)

    def init_cache(self, batch: int, length: int) -> Cache:
        caches = [member.init_cache(batch, length) for member in self.each]
        return Cache([layer for own in caches for layer in own.layers], batch, length, caches[0].lengths.device)

    def plan(self, layout: Layout, cache: Cache | None = None, modality: int | None = None) -> Plans:
        return Plans([member.plan(layout, cache, modality) for member in self.each])

    def next_token(self, cache: Cache, time: Tensor) -> None:
        """Every pass needs a layout."""

    def forward(self, x: Tensor, layout: Layout | Plans, cache: Cache | None = None) -> Tensor:
        """x (B, S, D) -> (B, S, D), each part normalised."""
        plans = self.plan(layout, cache) if isinstance(layout, Layout) else layout
        found, layers = [], len(self.each[0].blocks)
        for number, (member, part, plan) in enumerate(zip(self.each, x.chunk(len(self.each), -1), plans.each)):
            own = None if cache is None else copy(cache)
            if own is not None:
                own.layers = own.layers[number * layers : (number + 1) * layers]
            found.append(member(part, plan, own))
        return torch.cat(found, -1)

    def untied_parameters(self) -> dict[str, list[int]]:
        """The parameters that towers own: the tower of each slice along the first dimension."""
        owned = enumerate(member.untied_parameters() for member in self.each)
        return {f"members.{number}.{name}": slices for number, own in owned for name, slices in own.items()}

    def active_parameters(self) -> int:
        return sum(member.active_parameters() for member in self.each)

    def flops(self, layout: Layout) -> int:
        return sum(member.flops(layout) for member in self.each)

    def executed_flops(self, layout: Layout) -> int:
        return sum(member.executed_flops(layout) for member in self.each)

    def activations(self, layout: Layout) -> int:
        return sum(member.activations(layout) for member in self.each)

    def auxiliary_loss(self) -> Tensor | float:
        """The mean over members."""
        return sum(member.auxiliary_loss() for member in self.each) / len(self.each)
