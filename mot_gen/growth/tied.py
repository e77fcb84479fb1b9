"""Growth: the towers of one model in one (OT fusion, arXiv 2310.05719, of two towers in the place of two runs).

The feed-forward channels of the other towers are brought into the order in which they are nearest to the first tower's,
and what the towers own is averaged. Heads and channels of values stay where they are: towers attend together, so that
their order is the same in all of them already. Towers that differ only in the order of these channels are tied without
loss; of others it is a start from which to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mot_gen.errors import InputError, nearest, require
from mot_gen.growth import base, fused
from mot_gen.model import MultimodalModel


@dataclass(frozen=True)
class Growth(base.Growth):
    """parts: what is tied, by the names of `backbone.untied`; all that the towers own when it is not given."""

    parts: Sequence[str] | None = None

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        base.require_gated(model, "tied")
        untied = list(model.backbone.config.untied)
        several = len(model.backbone.towers) > 1
        require(untied and several, "--grow tied: this model has one tower; give one whose towers own parameters")
        parts = self._parts(untied)
        moved = base.rebuild(model)
        if "ffn" in parts:
            for block in base.blocks_of(moved):
                _order(block.ffn)
        made = base.rebuild(model, untied=[name for name in untied if name not in parts])
        owned = dict(moved.named_parameters())
        for name, parameter in made.named_parameters():
            if parameter.shape != owned[name].shape:
                parameter.copy_(owned[name].mean(0, keepdim=True))
        return made

    def _parts(self, untied: Sequence[str]) -> Sequence[str]:
        """What is tied; InputError for what no tower owns."""
        if self.parts is None:
            return untied
        for name in self.parts:
            if name not in untied:
                raise InputError(f"parts={name}: no tower owns it" + nearest(name, untied))
        return self.parts


def _order(unit) -> None:
    """Put the channels of all towers into the order of the first's."""
    for tower in range(1, len(unit.down.weight)):
        fused.align_tower(unit, 0, unit, tower)
