"""A mixture of blocks (Dense2MoE, arXiv 2510.09094): of every `group` layers a picture passes through `run` in a row.

The mean of a span's tokens as they come to a group says which: (group - run + 1) windows are scored by one projection,
and the best one runs. One choice holds for the whole span, which is there as a whole in training and at every denoising
step. Tokens of other spans, as text, pass through all layers. In a layer that a span does not pass through its tokens
are no keys. The published router also reads the time of denoising, which is in the tokens here, and how it learns could
not be read: here the feed-forward's output is multiplied by 1 + p - p, of which the second p has no gradient, p being
the softmax of the window that runs. With run = group this is the usual stack.

Shapes: B rows, S slots, T = B * S tokens, D width, w windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.batch import Batch, Plan
from mot_gen.backbone.parts import Layer
from mot_gen.backbone.skip_cache import SkipCache
from mot_gen.backbone.skipping import SkippingDepth, blocks_of, run_on
from mot_gen.sequence import PADDING


@dataclass(frozen=True)
class Depth(SkippingDepth):
    """group: layers that belong together. run: of these, how many a picture passes through."""

    group: int = 4
    run: int = 2

    untied = ("choice",)

    def check(self, config: Any, towers: Sequence[str]) -> None:
        self.require_counts("group", "run")
        if self.run > self.group:
            raise self.refuse("run", f"must be from 1 to the layers of a group, {self.group}, got {self.run}")
        if config.layers % self.group or len(config.roles.parts["depth"]) > 1:
            raise self.refuse("group", f"{self.group} must divide backbone.layers, {config.layers}, in one pattern")

    def modules(self, block: Layer) -> parts.Modules:
        if block.number % self.group:
            return {}
        return {"choice": block.owners.inward("choice", self.group - self.run + 1)}

    def forward(self, block: Layer, x: Tensor, plan: Plan, cache: SkipCache | None) -> Tensor:
        place = block.number % self.group
        name = f"windows of {block.number - place}"
        if place == 0:
            plan.made[name] = self._choose(block, x, plan)
        window, weight = plan.made[name]
        kept = (window <= place) & (place < window + self.run) | (window < 0)
        return run_on(kept, None, weight, 1.0, block, x, plan, cache)

    def _choose(self, block: Layer, x: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """(B, S) the window of each token's span, -1 of tokens that pass through all; and (B, S, 1) its weight."""
        shape, span = plan.batch.layout.shape, blocks_of(plan.batch)
        number = span - PADDING  # from 0, which is no span
        rows = plan.routing.unsort(block.choice(x, plan.routing)).view(*shape, -1).float()
        at = number[..., None].expand_as(rows)
        spans = rows.new_zeros(len(rows), number.shape[1] + 1, rows.shape[2])
        total = spans.scatter_add(1, at, rows)  # the mean of projections is that of the mean
        size = spans[..., :1].scatter_add(1, number[..., None], torch.ones_like(rows[..., :1]))
        score = (total / size.clamp_min(1)).softmax(-1)
        best, window = score.max(-1)
        weight = (1 + best - best.detach()).gather(1, number)
        weight = torch.where(number > 0, weight, 1.0)
        return window.gather(1, number).masked_fill(number == 0, -1), weight[..., None]

    def reached(self, block: Layer, batch: Batch) -> Batch:
        """Counted as if every picture ran the first window; every window has `run` layers."""
        if block.number % self.group < self.run:
            return batch
        others, name = blocks_of(batch) == PADDING, f"others {self.group}"
        return batch.once(name, lambda: batch.thinned(others, None, name)[0])

    def flops(self, block: Layer, batch: Batch) -> int:
        windows = self.group - self.run + 1
        return 0 if block.number % self.group else 2 * block.owners.channels(batch.routing) * windows
