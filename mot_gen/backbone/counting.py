"""Counting, the base of a stack of blocks: it counts parameters, FLOPs and activations by asking all parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mot_gen.backbone.batch import Batch
from mot_gen.backbone.owners import owned_parameters
from mot_gen.backbone.parts import Layer, Part
from mot_gen.backbone.towers import active_parameters
from mot_gen.sequence import Layout


class Counting(nn.Module):
    """A backbone that counts its parameters, FLOPs and activations, given its `blocks`, `towers` and `batch`."""

    tower_of: Tensor
    bidirectional: Tensor
    blocks: nn.ModuleList
    towers: list[str]
    config: Any
    dim: int

    def batch(self, layout: Layout) -> Batch:
        """The layout as a `Batch`, which parts can ask."""
        raise NotImplementedError

    def each_block(self) -> Iterator[Layer]:
        for block in self.blocks:
            assert isinstance(block, Layer)
            yield block

    def each_part(self) -> Iterator[tuple[Layer, Part]]:
        return ((block, part) for block in self.each_block() for part in block.parts.each())

    def untied_parameters(self) -> dict[str, list[int]]:
        """The parameters that towers own: the tower of each slice along the first dimension."""
        return owned_parameters(self) if len(self.towers) > 1 else {}

    def active_parameters(self) -> int:
        """How many parameters one text token passes through: its tower, with as many experts as take it on average."""
        text = int(self.tower_of[0])
        return active_parameters(self, text) - sum(part.idle_parameters(b, text) for b, part in self.each_part())

    def flops(self, layout: Layout) -> int:
        """FLOPs of a forward pass over all slots, by kernels that skip what parts leave out; attention is dense."""
        return int(self._total("flops", layout))

    def executed_flops(self, layout: Layout) -> int:
        """FLOPs of a forward pass as it is run here."""
        return int(self._total("executed_flops", layout))

    def activations(self, layout: Layout) -> int:
        """Numbers that the backward pass keeps of a batch: those of the parts, and of each norm 2 of width D."""
        norms = 2 * self.config.sublayers * layout.modality.numel() * self.dim
        return round(self._total("activations", layout) + norms)

    def _total(self, figure: str, layout: Layout) -> float:
        batch = self.batch(layout)
        return sum(_of_block(block, figure, batch) for block in self.each_block())

    def auxiliary_loss(self) -> Tensor | float:
        """The weighted losses of the last forward pass's routers, mean over layers; 0 where nothing is routed."""
        return sum(part.auxiliary_loss(block) for block, part in self.each_part()) / len(self.blocks)


def _of_block(block: Layer, figure: str, batch: Batch) -> float:
    """The sum over its parts of "flops", "executed_flops" or "activations"."""
    depth = block.parts.depth
    reached = depth.reached(block, batch)
    others = sum(getattr(part, figure)(block, reached) for part in block.parts.each() if part is not depth)
    return others + getattr(depth, figure)(block, batch)
