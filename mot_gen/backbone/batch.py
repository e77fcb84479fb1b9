"""What a forward pass derives from a layout, once for all layers: Batch, which parts derive it from, and Plan.

Shapes: B rows, S slots, T = B * S tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from mot_gen.backbone.attention import Places
from mot_gen.backbone.cache import Cache
from mot_gen.backbone.routing import Routing, route
from mot_gen.sequence import PADDING, Layout
from mot_gen.sequence.memo import Memo


class Prepares(Protocol):
    """A block, whose parts derive what they read of a batch."""

    def prepare(self, batch: Batch) -> None: ...


@dataclass
class Batch(Memo):
    """A layout and all that parts may ask of it.

    towers: their number. tower_of, bidirectional: (modalities,) the tower of each, and whether its spans are read both
    ways. cache: where the tokens are the next ones of a cache. compiled: whether the pass is compiled. on_grid:
    (modalities,) whether its tokens stand in rows and columns. tower_numbers: `tower_of` on the host. made: what parts
    derived from the batch.
    """

    layout: Layout
    towers: int
    tower_of: Tensor
    bidirectional: Tensor
    cache: Cache | None = None
    compiled: bool = False
    on_grid: Tensor | None = None
    tower_numbers: Sequence[int] | None = None
    made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def first(self, name: str) -> bool:
        """Whether no part has given this name before: what is kept once for all layers is counted once."""
        new = name not in self.made
        self.made[name] = None
        return new

    @cached_property
    def routing(self) -> Routing:
        """Where each tower's tokens are."""
        if self.towers > 1:
            return route(self.tower, self.towers, self._counts())
        tokens = self.layout.modality.numel()
        return Routing(None, None, torch.tensor([tokens], dtype=torch.int32), [tokens], 0)

    def _counts(self) -> list[int] | None:
        """How many tokens each tower has, where the packer has counted them."""
        if self.layout.counts is None or self.tower_numbers is None:
            return None
        counts = [0] * self.towers
        for tower, count in zip(self.tower_numbers, self.layout.counts):
            counts[tower] += count
        return counts

    @property
    def tower(self) -> Tensor:
        """(T,) the tower of each token, in sequence order."""
        return self.tower_of[self.layout.modality].flatten()

    def axes(self, chosen: Sequence[int]) -> Tensor:
        """(T, pairs) the position of every token on the axis that is chosen for each pair; what is on no grid stands at
        its time on all axes."""
        assert self.on_grid is not None, "the backbone knows"
        position = self.layout.position
        on_grid = self.on_grid[self.layout.modality][..., None]
        placed = torch.where(on_grid, position, position[..., :1])
        return placed.flatten(0, 1)[:, list(chosen)]

    @cached_property
    def places(self) -> tuple[Places, Places]:
        """The places of the queries and of the keys: the same tokens, or over a cache all keys that it holds."""
        if self.cache is not None:
            return self.cache.place(self.layout, self.bidirectional)
        places = Places.of(self.layout, self.bidirectional)
        return places, places

    def plan(self, blocks: Iterable[Prepares]) -> Plan:
        """What these blocks read of the batch."""
        if self.cache is not None:
            _ = self.places  # reserves the tokens' slots
        for block in blocks:
            block.prepare(self)
        return Plan(self, self.routing, len(self.layout.document), self.made)

    def thinned(self, kept: Tensor, cache: Cache | None, name: str | None = None) -> tuple[Batch, Tensor]:
        """The batch of the kept tokens alone, (B, S) bool, each row moved together and padded at its end; and the slots
        (B, k) that they come from, those of padding being any that is not kept.

        name: of what decides how many tokens are kept, where that follows from the layout alone; the host then counts
        them once, where the layout is on the host. Without, it waits for the device."""
        counted = self._counted(kept) if name is None else self.layout.once(name, lambda: self._counted(kept))
        length, *counts = counted
        slots = kept.logical_not().long().argsort(dim=1, stable=True)[:, :length]
        empty = ~kept.gather(1, slots)
        layout = self.layout
        block, alone = layout.block, layout.alone
        thin = Layout(
            layout.modality.gather(1, slots).masked_fill(empty, 0),
            layout.document.gather(1, slots).masked_fill(empty, PADDING),
            layout.span.gather(1, slots).masked_fill(empty, PADDING),
            layout.position.gather(1, slots[..., None].expand(-1, -1, 3)),
            None if block is None else block.gather(1, slots).masked_fill(empty, PADDING),
            None if alone is None else alone.gather(1, slots) & ~empty,
            counts,
        )
        return replace(self, layout=thin, cache=cache), slots

    def _counted(self, kept: Tensor) -> list[int]:
        """How many slots a row needs for its kept tokens, (B, S) bool; then, of each modality, how many of all these
        slots are of it, where padding counts as the first."""
        length = max(1, int(kept.sum(1).max()))  # of a row without tokens one slot of padding
        others = len(self.tower_of)
        modality = self.layout.modality.masked_fill(~kept, others)
        counts = torch.bincount(modality.flatten(), minlength=others + 1)[:others].tolist()
        counts[0] += len(kept) * length - sum(counts)
        return [length, *counts]


@dataclass
class Plan(Memo):
    """What blocks read while they run. rows: B. made: what parts derived from the batch, by name. batch: None for next
    tokens (`next_token`), which have no layout."""

    batch: Any  # a Batch
    routing: Routing
    rows: int
    made: dict[str, Any]
