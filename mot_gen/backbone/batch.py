"""What all layers share in a forward pass: Batch, from which parts derive it before; and Plan, which blocks then read.

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


class PreparesBatch(Protocol):
    """A block, which derives from a batch what its parts need."""

    def prepare(self, batch: Batch) -> None: ...


@dataclass
class Batch(Memo):
    """A layout, with what else parts need to know of its tokens.

    towers: how many towers there are.
    tower_of, bidirectional, on_grid: (modalities,) the tower of each modality, whether all tokens of its spans see one
    another, and whether they stand in rows and columns.
    tower_numbers: `tower_of` on the host.
    cache: given where the tokens are the next ones of a cache.
    compiled: whether the pass is compiled.
    made: what parts derived from the batch, by name.
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
        """Whether this name is new. What all layers share, such as a mask, is counted once by asking this."""
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
        """(T, pairs): for each pair of channels the position of every token on its chosen axis. A token that is on no
        grid has its time as the position on all axes."""
        assert self.on_grid is not None, "the backbone knows"
        position = self.layout.position
        on_grid = self.on_grid[self.layout.modality][..., None]
        placed = torch.where(on_grid, position, position[..., :1])
        return placed.flatten(0, 1)[:, list(chosen)]

    @cached_property
    def places(self) -> tuple[Places, Places]:
        """The places of queries and keys: those of the batch's tokens; over a cache the keys are all that it holds."""
        if self.cache is not None:
            return self.cache.place(self.layout, self.bidirectional)
        places = Places.of(self.layout, self.bidirectional)
        return places, places

    def plan(self, blocks: Iterable[PreparesBatch]) -> Plan:
        """Let blocks derive what they need. The plan is for all blocks with the same parts."""
        if self.cache is not None:
            _ = self.places  # reserves the tokens' slots
        for block in blocks:
            block.prepare(self)
        return Plan(self, self.routing, len(self.layout.document), self.made)

    def thinned(self, kept: Tensor, cache: Cache | None, name: str | None = None) -> tuple[Batch, Tensor]:
        """A batch of some tokens alone, and the slots (B, k) that they come from.

        kept: (B, S) bool, the tokens. In each row they are moved together, and padding follows; its slots are any that
        are not kept. name: given if the number of kept tokens follows from the layout alone. The host then counts them
        once under this name; else it waits for the device.
        """
        if name is None:
            length, *counts = self._counted(kept)
        else:
            length, *counts = self.layout.once(name, lambda: self._counted(kept))
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
        """[slots of a row, slots of each modality] of a batch of the tokens `kept`, (B, S) bool. Padding counts as the
        first modality."""
        numbers = torch.arange(len(self.tower_of), device=kept.device)
        of_each = ((self.layout.modality.flatten() == numbers[:, None]) & kept.flatten()).sum(1)
        # As one tensor, for which the host waits once.
        longest, *counts = torch.cat([kept.sum(1).max()[None], of_each]).tolist()
        length = max(1, longest)  # where nothing is kept, one slot of padding
        counts[0] += len(kept) * length - sum(counts)
        return [length, *counts]


@dataclass
class Plan(Memo):
    """What blocks read while they run.

    batch: the `Batch`; None for a pass that writes one token in every row (`next_token`), which has no layout. rows: B.
    made: what parts derived from the batch, by name.
    """

    batch: Any  # a Batch or None
    routing: Routing
    rows: int
    made: dict[str, Any]
