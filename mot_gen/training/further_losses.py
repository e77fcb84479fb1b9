"""Losses beside those of the data: FurtherLosses, of a teacher and of consistency between two passes.

`training.teacher` names a trained model, see teacher.py.

`training.consistency` runs each batch a second time, whose random parts draw anew (THOR, arXiv 2110.04260): both passes
learn from the data, and from the distance between them, for logits 1/2 sum (p - q)(log p - log q), for latents the mean
square. A step then takes twice the FLOPs.

Every loss is a sum over the tokens that count, divided as the data's is, so that accumulation and processes change
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mot_gen.flops import forward_flops
from mot_gen.learning.supervision import Losses
from mot_gen.model import MultimodalModel, Output
from mot_gen.recipes.sections import Training
from mot_gen.sequence import PackedBatch
from mot_gen.training.teacher import TeacherLoss, distance


class FurtherLosses:
    """The losses of a run beside those of its data, if any. consistency: the weight of that loss, 0 for none."""

    def __init__(self, training: Training, model: MultimodalModel, device: torch.device):
        self.training = training
        self.consistency = training.consistency
        self.teacher: TeacherLoss | None = None
        if training.teacher is not None:
            self.teacher = TeacherLoss(training.teacher, model, device)

    @property
    def active(self) -> bool:
        """Whether there are any."""
        return self.teacher is not None or bool(self.consistency)

    def losses(
        self,
        network: Callable,
        model: MultimodalModel,
        batch: PackedBatch,
        targets: dict[str, Tensor],
        factors: Mapping[str, float],
    ) -> Losses:
        """The losses of the data and the further ones together, from outputs for all tokens.

        network: what is called in the model's place. targets: modality -> (N, C). factors: modality -> what its sum of
        losses is multiplied by in the total.
        """
        output = network(batch)
        losses, masks = model.losses(batch, output, targets), model.loss_masks(batch)
        further = self.terms(network, model, batch, output, targets)
        total, by_token = torch.zeros((), device=batch.ids.device), {}
        for name, each in losses.items():
            counted = each * masks[name]
            learned = self.share_of_data() * counted.sum() + further.get(name, 0.0)
            total = total + learned * factors[name]
            # Of discrete tokens those that count are listed, as `Supervision` lists them.
            by_token[name] = counted.detach() if name in batch.latents else counted.detach()[masks[name] > 0]
        return Losses(total, by_token)

    def share_of_data(self) -> float:
        """What the data's own losses are multiplied by."""
        if self.training.teacher is None:
            return 1.0
        return self.training.teacher.data

    def flops(self, model: MultimodalModel, batch: PackedBatch) -> int:
        """Their FLOPs, beyond the usual forward and backward pass of the model."""
        flops = 0
        if self.consistency:
            flops += 3 * forward_flops(model, batch)
        if self.teacher is not None:
            flops += forward_flops(self.teacher.model, batch)
        return flops

    def terms(
        self, network: Callable, model: MultimodalModel, batch: PackedBatch, output: Output, targets: dict[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Modality -> the weighted sum of the further losses over its tokens. Call it right after the pass that gave
        `output`."""
        found: dict[str, Tensor] = {}
        masks = model.loss_masks(batch)
        if self.teacher is not None:
            found = self.teacher.terms(batch, output, masks)
        if self.consistency:
            other = network(batch)
            losses = model.losses(batch, other, targets)
            for name, mask in masks.items():
                both = losses[name] + self.consistency * distance(name, output, other, "symmetric")
                found[name] = found.get(name, 0.0) + (both * mask).sum()
        return found
