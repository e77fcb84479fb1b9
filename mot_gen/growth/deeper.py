"""Growth: further layers on a trained stack (Growing Transformers, arXiv 2507.09129).

A new layer begins as a copy of the last one whose sublayers write nothing: their last projections are zero, so that the
model computes exactly what it did. `training.frozen_layers` lets the layers below stay as they are while it learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mot_gen.backbone.routing import is_adapter
from mot_gen.errors import require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel

# Parameters that write to the residual stream, by the end of their names.
MIXERS_WRITE = ("out.weight", "out_proj.weight", "outs.weight")
FEEDS_WRITE = ("down.weight", "linear.weight", "sums")


@dataclass(frozen=True)
class Growth(base.Growth):
    """layers: how many are added."""

    layers: int = 1

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        require(self.layers >= 1, f"layers={self.layers}: must be a positive integer")
        blocks = base.blocks_of(model)
        made = base.rebuild(model, layers=len(blocks) + self.layers)
        grown = list(made.backbone.blocks)
        _check_depth(blocks, grown[: len(blocks)])
        for own in grown[len(blocks) :]:
            base.copy_parameters(own, blocks[-1])
            _silence(own)
        return made


def _check_depth(blocks: list[Any], again: list[Any]) -> None:
    """InputError where the layers of a model are others in a deeper one."""
    for before, after in zip(blocks, again):
        same = after.parts == before.parts and not after.parts.depth.plans
        require(same, "--grow deeper: what a layer skips follows from the depth here; name depth=every")


def _silence(block: Any) -> None:
    """Let a layer write nothing. InputError where its mixer writes without a projection, as pooling does."""
    written = [name for name, _ in block.named_parameters() if _writes(name)]
    complaint = f"--grow deeper: the mixer of layer {block.number} has no projection, so that it cannot begin silent"
    mixes = any(_own(name).endswith(MIXERS_WRITE) for name in written)
    require(mixes, f"{complaint}; add as many layers as end before it")
    for name in written:
        block.get_parameter(name).zero_()


def _writes(name: str) -> bool:
    """Whether a parameter's product goes to the residual stream; an adapter's B is made silent wherever it writes."""
    adds = is_adapter(name) and name.endswith(".b")
    return adds or _own(name).endswith((*MIXERS_WRITE, *FEEDS_WRITE))


def _own(name: str) -> str:
    """A parameter's name without the number of a tower, where each has a matrix of its own width."""
    return name.rstrip(".0123456789")
