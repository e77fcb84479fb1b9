"""Growth: further layers on a trained stack (Growing Transformers, arXiv 2507.09129).

A new layer begins as a copy of the last one whose sublayers write nothing: their last projections are zero, so that the
model computes exactly what it did. `training.frozen_layers` lets the layers below stay as they are while it learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mot_gen.errors import InputError, require
from mot_gen.growth import parents
from mot_gen.model import MultimodalModel

WRITES = ("out.weight", "down.weight", "out_proj.weight", "outs.weight", "linear.weight")  # to the residual stream


@dataclass(frozen=True)
class Growth(parents.Growth):
    """layers: how many are added."""

    layers: int = 1

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        require(self.layers >= 1, f"layers={self.layers}: must be a positive integer")
        blocks = parents.blocks_of(model)
        made = parents.rebuilt(model, layers=len(blocks) + self.layers)
        grown = list(made.backbone.blocks)
        _check_depth(blocks, grown[: len(blocks)])
        for own in grown[len(blocks) :]:
            parents.copied(own, blocks[-1])
            _silence(own)
        return made


def _check_depth(blocks: list[Any], again: list[Any]) -> None:
    """InputError where the layers of a model are others in a deeper one."""
    for before, after in zip(blocks, again):
        if after.parts.depth.plans or after.parts != before.parts:
            raise InputError("--grow deeper: what a layer skips follows from the depth here; name depth=every")


def _silence(block: nn.Module) -> None:
    """Let a layer write nothing."""
    silenced = 0
    for name, parameter in block.named_parameters():
        if name.endswith(WRITES) or ".sums" in name:
            parameter.zero_()
            silenced += 1
    require(silenced, "--grow deeper: no projection of this layer is known to write to the residual stream")
