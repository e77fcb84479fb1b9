"""What training may learn from beside its data: FurtherLosses, of a teacher and of two draws of one model.

`training.teacher` names a trained model (module-to-module distillation, arXiv 2402.16918; in stages into another mixer,
arXiv 2604.14191). Its outputs and those of chosen layers are what the model's own should be: logits by KL divergence,
latents by mean square, layers by the cosine or the mean square of what a mixer writes or of the residual stream.

`training.consistency` runs each batch a second time, whose random parts draw anew (THOR, arXiv 2110.04260): both passes
learn from the data, and from the distance between them, for logits 1/2 sum (p - q)(log p - log q), for latents the mean
square. A step then takes twice the FLOPs.

Every loss is a sum over the tokens that count, divided as the data's is, so that accumulation and processes change
nothing.

Shapes: M tokens that predict, V vocabulary, N tokens of a continuous modality, C channels, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen import checkpoints
from mot_gen.errors import InputError
from mot_gen.flops import forward_flops
from mot_gen.learning.supervision import Losses
from mot_gen.model import MultimodalModel, Output
from mot_gen.recipes.sections import Teacher, Training
from mot_gen.sequence import PADDING, PackedBatch

WRITES = ("out", "out_proj", "outs")  # the projections with which mixers write to the residual stream


class FurtherLosses:
    """Of one run. network: what is called in the model's place."""

    def __init__(self, training: Training, model: MultimodalModel, device: torch.device):
        self.training, self.teacher = training, None
        self.consistency = training.consistency
        if training.teacher is not None:
            self.teacher = TaughtBy(training.teacher, model, device)

    @property
    def active(self) -> bool:
        """Whether anything is learned beside the data."""
        return self.teacher is not None or bool(self.consistency)

    def losses(
        self,
        network: Callable,
        model: MultimodalModel,
        batch: PackedBatch,
        targets: dict[str, Tensor],
        factors: Mapping[str, float],
    ) -> Losses:
        """Those of the data and these, from the outputs for all tokens, which both compare."""
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
        return 1.0 if self.training.teacher is None else self.training.teacher.data

    def flops(self, model: MultimodalModel, batch: PackedBatch) -> int:
        """Beside a forward and a backward pass of the model."""
        spent = 3 * forward_flops(model, batch) if self.consistency else 0
        return spent + (forward_flops(self.teacher.model, batch) if self.teacher is not None else 0)

    def terms(
        self, network: Callable, model: MultimodalModel, batch: PackedBatch, output: Output, targets: dict[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Modality -> the sum over its tokens of what is to be learned beside the data's own losses, at the weight of
        each; call it right after the pass that gave `output`."""
        found: dict[str, Tensor] = {}
        masks = model.loss_masks(batch)
        if self.teacher is not None:
            found = self.teacher.terms(batch, output, masks)
        if self.consistency:
            other = network(batch)
            losses = model.losses(batch, other, targets)
            apart = distances(output, other, "symmetric")
            for name, mask in masks.items():
                both = losses[name] + self.consistency * apart(name, model)
                found[name] = found.get(name, 0.0) + (both * mask).sum()
        return found


class TaughtBy:
    """A trained model, and what is compared with it. InputError where it does not speak the model's language."""

    def __init__(self, section: Teacher, model: MultimodalModel, device: torch.device):
        self.section, self.student = section, model
        folder = checkpoints.located(section.model)
        self.model = MultimodalModel.from_pretrained(folder).to(device).eval().requires_grad_(False)
        _check(section, model, self.model)
        pairs = section.layers or []
        self.seen = [_Watched(model, [pair[0] for pair in pairs], section.where)]
        self.seen.append(_Watched(self.model, [pair[1] for pair in pairs], section.where))

    def terms(self, batch: PackedBatch, output: Output, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `FurtherLosses.terms`."""
        own = self.seen[0].taken()
        with torch.no_grad():
            taught = self.model(batch)
        apart = distances(output, taught, self.section.logits, self.section.temperature)
        found = {}
        for name, mask in masks.items():
            found[name] = self.section.outputs * (apart(name, self.student) * mask).sum()
        if self.section.layers:
            text = self.student.modality_names[0]
            found[text] = found[text] + self.section.hidden * self._layers(batch, own) * masks[text].sum()
        return found

    def _layers(self, batch: PackedBatch, own: Sequence[Tensor]) -> Tensor:
        """The mean over layers and tokens of how far apart they are; padding does not count."""
        real = batch.layout.document.flatten() != PADDING
        total = torch.zeros((), device=real.device)
        for mine, theirs in zip(own, self.seen[1].taken()):
            mine, theirs = mine[real].float(), theirs[real].float()
            if self.section.layer_loss == "cosine":
                total = total + (1 - F.cosine_similarity(mine, theirs, dim=-1)).mean()
            else:
                total = total + F.mse_loss(mine, theirs)
        return total / len(own)


def distances(output: Output, other: Output, of_logits: str, temperature: float = 1.0) -> Callable:
    """A function (modality's name, model) -> how far apart two outputs are token by token, (M,) or (N,)."""

    def apart(name: str, model: MultimodalModel) -> Tensor:
        if name in other.latents and name in output.latents:
            return (output.latents[name].float() - other.latents[name].float()).square().mean(-1)
        p, q = (logits.float() / temperature for logits in (other.logits, output.logits))
        if of_logits == "mse":
            return (p - q).square().mean(-1)
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        if of_logits == "symmetric":
            return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2
        return (p.exp() * (p - q)).sum(-1) * temperature**2

    return apart


class _Watched:
    """What chosen layers gave in the last pass, in the order of the sequence. where: "mixer" or "layer"."""

    def __init__(self, model: MultimodalModel, layers: Sequence[int], where: str):
        self.found: dict[int, Tensor] = {}
        for number in layers:
            block: Any = model.backbone.blocks[number]
            if where == "layer":
                block.register_forward_hook(self._hook(number, lambda inputs: inputs[1].routing))
                continue
            name = next((name for name in WRITES if hasattr(block, name)), None)
            if name is None:
                raise InputError(f"training.teacher.where: the mixer of layer {number} has no output; say layer")
            getattr(block, name).register_forward_hook(self._hook(number, lambda inputs: inputs[1]))
        self.layers = list(layers)

    def _hook(self, number: int, routing_of: Callable) -> Callable:
        def keep(module, inputs, output):
            self.found[number] = routing_of(inputs).unsort(output)

        return keep

    def taken(self) -> list[Tensor]:
        found, self.found = self.found, {}
        return [found[number] for number in self.layers]


def _check(section: Teacher, model: MultimodalModel, teacher: MultimodalModel) -> None:
    where = f"training.teacher.model: {section.model}"
    if [vars(m) for m in model.modalities] != [vars(m) for m in teacher.modalities]:
        raise InputError(f"{where} has other modalities or another vocabulary; give one that was trained on the same")
    own, other = (model.config.get("tokenizers") or {}, teacher.config.get("tokenizers") or {})
    for name in own.keys() & other.keys():
        if own[name] != other[name]:
            raise InputError(f"{where} was trained with another tokenizer of {name}; begin with training.init of it")
    for student_layer, teacher_layer in section.layers:
        for number, built, whose in ((student_layer, model, "this model"), (teacher_layer, teacher, "the teacher")):
            most = len(built.backbone.blocks) - 1
            if not 0 <= number <= most:
                raise InputError(f"training.teacher.layers: {number} must be from 0 to {most}, the layers of {whose}")
    if section.layers and model.backbone.dim != teacher.backbone.dim:
        raise InputError(
            f"training.teacher.layers: the teacher is {teacher.backbone.dim} wide and this model {model.backbone.dim}; "
            "layers are compared at one width, so leave them out"
        )
