"""Growth: a nested feed-forward's first channels as a model of their own (MatFormer, arXiv 2310.07707).

What is made is a plain gated model, and computes, bit for bit, what its parent does at this width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mot_gen.backbone.feed_forwards.nested import NestedUnit
from mot_gen.errors import InputError, require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel


@dataclass(frozen=True)
class Growth(base.Growth):
    """width: hidden channels that are kept, of every tower."""

    width: int

    @torch.no_grad()
    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        blocks = base.blocks_of(model)
        if not all(isinstance(getattr(block, "ffn", None), NestedUnit) for block in blocks):
            raise InputError("--grow sliced: is for nested feed-forwards; train with backbone.feed_forward=nested")
        whole = blocks[0].ffn.hidden
        require(1 <= self.width <= whole, f"width={self.width}: must be from 1 to {whole}, that of its parent")
        made = base.rebuild(model, feed_forward=None, ffn_dim=self.width)
        for own, parent in zip(made.backbone.blocks, blocks):
            gate, up = parent.ffn.gate_up.weight.split(whole, 1)
            own.ffn.gate_up.weight.copy_(torch.cat([gate[:, : self.width], up[:, : self.width]], 1))
            own.ffn.down.weight.copy_(parent.ffn.down.weight[..., : self.width])
        return made
