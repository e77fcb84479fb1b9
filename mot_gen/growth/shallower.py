"""Growth: chosen layers of a trained stack as a model of their own, to be taught by it (DistilBERT, arXiv 1910.01108).

The layers that stay keep their weights, and all outside of them is copied. Where the others write nothing, as those
that `deeper` adds at first, the model computes exactly what it did; else let `training.teacher` bring it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mot_gen.errors import require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel


@dataclass(frozen=True)
class Growth(base.Growth):
    """keep: the numbers of the layers that stay; every second one, from the first, when it is not given."""

    keep: Sequence[int] | None = None

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        blocks = base.blocks_of(model)
        keep = list(range(0, len(blocks), 2)) if self.keep is None else list(self.keep)
        rising = [number for number in range(len(blocks)) if number in keep]
        fits = keep and keep == rising
        require(fits, f"keep={keep}: must name layers from 0 to {len(blocks) - 1} in rising order, each once")
        made = base.rebuild(model, layers=len(keep))
        for own, number in zip(made.backbone.blocks, keep):
            _check_parts(own, blocks[number], number)
            base.copy_parameters(own, blocks[number])
        return made


def _check_parts(own: Any, before: Any, number: int) -> None:
    """InputError where a layer would have other parts at its new place."""
    same = own.parts == before.parts and not before.parts.depth.plans
    require(same, f"--grow shallower: layer {number} has other parts than its new place; keep whole patterns")
