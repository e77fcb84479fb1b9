"""Transformers side by side, which have nothing in common but the sequence: Config, SideBySide (the backbone), Plans.

The width is cut into equal parts, each the residual stream of a transformer of its own, with a final norm of its own.
Under one head this is the mean of several models' logits (the second form of Growing Transformers, arXiv 2507.09129),
and it costs what all of them cost; `--grow side_by_side` makes one of two trained models.

Shapes: B rows, S slots, D width of all members together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.backbone import transformer
from mot_gen.backbone.batch import Plan
from mot_gen.backbone.cache import Cache
from mot_gen.backbone.routing import Routing
from mot_gen.backbone.sizes import require_counts
from mot_gen.errors import require
from mot_gen.sequence import Layout, Modality

SHARED_OUT = ("dim", "heads", "kv_heads", "ffn_dim")  # among the members


@dataclass
class Config(transformer.Config):
    """members: how many transformers. dim, heads, kv_heads and ffn_dim are those of all together, of which each has an
    equal part; the other options are those of each."""

    members: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "members")
        given = {f.name: getattr(self, f.name) for f in fields(transformer.Config)}
        given["size"] = None
        for name in SHARED_OUT:
            value = given[name] or 0
            even = value % self.members == 0
            require(even, f"backbone.{name}: {value} must be a multiple of backbone.members, {self.members}")
            given[name] = value // self.members or None
        require(not self.widths, "backbone.widths: members are of one width; drop it")
        self.member = transformer.Config(**given)


@dataclass
class Plans:
    """The plan of each member."""

    each: list[Plan]

    @property
    def routing(self) -> Routing:
        return self.each[0].routing


class SideBySide(nn.Module):
    """A backbone (see `mot_gen.backbone`) made of others of one config, each of an equal part of the width."""

    def __init__(self, config: Config, modalities: Sequence[Modality]):
        super().__init__()
        self.config = config
        self.each = [transformer.Backbone(config.member, modalities) for _ in range(config.members)]
        self.members = nn.ModuleList(self.each)
        first = self.each[0]
        self.dim = config.members * first.dim
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

    def init_weights(self) -> None:
        """Every initial value, as each member draws its own."""
        for member in self.each:
            member.init_weights()

    def row_slots(self, length: int, device: torch.device) -> int:
        """How many slots a row of so many tokens should have on a device."""
        return self.each[0].row_slots(length, device)

    def init_cache(self, batch: int, length: int) -> Cache:
        """One cache, with the layers of all members, one member after the other."""
        caches = [member.init_cache(batch, length) for member in self.each]
        return Cache([layer for own in caches for layer in own.layers], batch, length, caches[0].lengths.device)

    def _cache_of_each(self, cache: Cache | None) -> Iterator[Cache | None]:
        """The cache as each member sees it: with its own layers alone."""
        first = 0
        for member in self.each:
            own = copy(cache)
            if own is not None:
                end = first + len(member.blocks)
                own.layers, first = own.layers[first:end], end
            yield own

    def plan(self, layout: Layout, cache: Cache | None = None, modality: int | None = None) -> Plans:
        return Plans([member.plan(layout, cache, modality) for member in self.each])

    def next_token(self, cache: Cache, time: Tensor) -> None:
        """Every pass needs a layout."""

    def forward(self, x: Tensor, layout: Layout | Plans, cache: Cache | None = None) -> Tensor:
        """x (B, S, D) -> (B, S, D), each part normalised."""
        plans = self.plan(layout, cache) if isinstance(layout, Layout) else layout
        parts = x.chunk(len(self.each), -1)
        of_each = zip(self.each, parts, plans.each, self._cache_of_each(cache))
        return torch.cat([member(part, plan, own) for member, part, plan, own in of_each], -1)

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


Backbone = SideBySide  # the name that recipes find it by
