"""Pooling (MetaFormer, arXiv 2111.11418): a token is mixed with the mean of its neighbours, and nothing is learned.

    mixer(x) = mean(x of the neighbours and itself) - x

Neighbours of a token of a picture are those of the same span in a square of `size` x `size` of its grid; of any other
token, the last `last` tokens of its document, itself among them. A picture so never sees its caption: some layer must
have another mixer, as in `mixer: [pool, pool, attention]`. The published block scales its output by a learned 1e-5,
meant for hundreds of epochs, which is left out here.

Shapes: B rows, S slots, T = B * S tokens, D width, P = last - 1, W the most neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.attention import EMPTY, Places, in_one_block
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.depths import blocks
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.recurrent.running_cache import RunningCache, last_of


@dataclass(frozen=True)
class Mixer(parts.Mixer):
    """size: of the square on a picture's grid, odd. last: how many tokens of its document any other token is
    mixed with, itself among them."""

    size: int = 3
    last: int = 4

    def fit(self, config: Any) -> Self:
        self.require_counts("size", "last")
        if self.size % 2 == 0:
            raise self.refuse("size", f"must be odd, so that a token stands in the middle, got {self.size}")
        return self

    def check(self, config: Any, towers: Sequence[str]) -> None:
        if config.widths:
            raise self.refuse("kind", "pool adds up tokens of all towers; drop backbone.widths")
        mixers = [config.roles.of_layer(layer).mixer for layer in range(config.layers)]
        if all(isinstance(mixer, Mixer) for mixer in mixers):
            raise self.refuse("kind", "pool alone never lets a picture see its caption; say mixer=[pool, attention]")
        if any(isinstance(depth, blocks.Depth) for depth in config.roles.parts["depth"]):
            complaint = "with depth=blocks a picture may pass through pooled layers alone; drop one of them"
            raise self.refuse("kind", complaint)

    def cache(self, block: Layer, rows: int, length: int, like: Tensor) -> RunningCache:
        return RunningCache(inputs=like.new_zeros(rows, self.last - 1, block.owners.dim))

    def prepare(self, block: Layer, batch: Batch) -> None:
        batch.once(repr(self), lambda: self._neighbours(batch))

    def _neighbours(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, S, W) which of the P + S tokens of a row are neighbours, and (B, S, W) bool, which of these there are."""
        layout, past = batch.layout, self.last - 1
        before = layout.document.new_full((len(layout.document), past), EMPTY)
        if batch.cache is not None:
            before = batch.cache.documents_before(past)
        document = torch.cat([before, layout.document], 1)
        own = torch.arange(layout.shape[1], device=document.device)[:, None] + past
        index = (own - torch.arange(self.last, device=document.device)).expand(len(document), -1, -1)
        there = document[torch.arange(len(document), device=document.device)[:, None, None], index]
        there = there == layout.document[..., None]
        near, close = self._on_grid(batch)
        if near is None:
            return index, there
        wide = max(self.last, near.shape[-1])
        inside = close.any(-1, keepdim=True)
        index, near = (torch.nn.functional.pad(t, (0, wide - t.shape[-1])) for t in (index, near + past))
        there, close = (torch.nn.functional.pad(t, (0, wide - t.shape[-1])) for t in (there, close))
        return torch.where(inside, near, index), torch.where(inside, close, there)

    def _on_grid(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """(B, S, size^2) the slots of a token's neighbours on its grid, and which of these there are; None where no
        token stands on one."""
        places = Places.of(batch.layout, batch.bidirectional)
        grid = batch.layout.position[..., 1:]
        near = (grid[:, :, None] - grid[:, None]).abs().amax(-1) <= self.size // 2
        near = near & in_one_block(places[:, :, None], places[:, None])
        if not near.any():
            return None, near
        close, slots = near.to(torch.uint8).topk(min(self.size**2, near.shape[-1]), dim=-1)
        return slots, close.bool()

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: RunningCache | None) -> Tensor:
        index, there = plan.made[repr(self)]
        rows = plan.routing.unsort(x).view(plan.rows, -1, x.shape[-1])
        past = self.last - 1
        before = rows.new_zeros(plan.rows, past, x.shape[-1]) if cache is None else cache["inputs"]
        line = torch.cat([before.to(rows.dtype), rows], 1)
        total = torch.zeros_like(rows)
        for place, here in zip(index.unbind(-1), there.unbind(-1)):
            total = total + line.gather(1, place[..., None].expand_as(rows)) * here[..., None]
        if cache is not None:
            cache.write(lambda counts: {"inputs": last_of(line, counts, past)})
        mean = total / there.sum(-1, keepdim=True)
        return plan.routing.sort((mean - rows).flatten(0, 1))

    def activations(self, block: Layer, batch: Batch) -> float:
        """Sums and means; neighbours are numbers of the whole batch."""
        return 2 * batch.layout.modality.numel() * block.owners.dim
