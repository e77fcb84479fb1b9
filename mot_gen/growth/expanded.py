"""Growth: any depth from a line through the layers (Learngene's linear expansion, TLEG, arXiv 2312.05614).

    W_l = intercept + (l / L) slope        for every parameter of a block, l = 1 to L

fitted by least squares to a trained stack, and read at the places of another depth; embedding, heads and the final norm
are copied. Where the layers do lie on a line nothing is lost. TLEG trains intercept and slope themselves; here they
are fitted afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.errors import require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel


@dataclass(frozen=True)
class Growth(base.Growth):
    """layers: of the new model."""

    layers: int

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        require(self.layers >= 1, f"layers={self.layers}: must be a positive integer")
        blocks = base.blocks_of(model)
        shapes = [base.shapes_of(block) for block in blocks]
        alike = shapes.count(shapes[0]) == len(shapes)
        require(alike, "--grow expanded: the layers differ in their parts, so that no line goes through them")
        made = base.rebuild(model, layers=self.layers)
        for name in shapes[0]:
            intercept, slope = line_through(torch.stack([block.get_parameter(name) for block in blocks]))
            for number, own in enumerate(made.backbone.blocks, 1):
                own.get_parameter(name).copy_(intercept + number / self.layers * slope)
        return made


def line_through(values: Tensor) -> tuple[Tensor, Tensor]:
    """values (L, ...) at 1/L, 2/L, ..., 1 -> intercept and slope by least squares; one value alone has the slope 0."""
    number = len(values)
    place = torch.arange(1, number + 1, dtype=torch.double) / number
    away = (place - place.mean()).to(values.device)
    spread = away.square().sum()
    mean = values.double().mean(0)
    if number == 1:
        slope = torch.zeros_like(mean)
    else:
        slope = torch.tensordot(away, values.double(), 1) / spread
    intercept = mean - place.mean() * slope
    return intercept.to(values.dtype), slope.to(values.dtype)
