"""TeacherLoss: the loss of learning from a trained model; distance, how far apart two outputs are.

`training.teacher` names the model (module-to-module distillation, arXiv 2402.16918; in stages into another mixer, arXiv
2604.14191). The model learns to give the same outputs: logits by KL divergence, latents by mean square, and those of
chosen layers by the cosine or the mean square, of what a mixer writes or of the residual stream.

Shapes: M tokens that predict, V vocabulary, N tokens of a continuous modality, C channels, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mot_gen import checkpoints
from mot_gen.errors import InputError, require
from mot_gen.model import MultimodalModel, Output
from mot_gen.recipes.sections import Teacher
from mot_gen.sequence import PADDING, PackedBatch

WRITES = ("out", "out_proj", "outs")  # the projections with which mixers write to the residual stream


def distance(name: str, output: Output, other: Output, of_logits: str, temperature: float = 1.0) -> Tensor:
    """How far apart two outputs of a modality are, token by token: (M,) where it is discrete, (N,) where continuous.

    of_logits: "kl", from the other's probabilities to these; "symmetric", half of both divergences; "mse", of logits.
    temperature: what logits are divided by before.
    """
    if name in output.latents and name in other.latents:
        return (output.latents[name].float() - other.latents[name].float()).square().mean(-1)
    p, q = (logits.float() / temperature for logits in (other.logits, output.logits))
    if of_logits == "mse":
        return (p - q).square().mean(-1)
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    if of_logits == "symmetric":
        return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2
    return (p.exp() * (p - q)).sum(-1) * temperature**2


class TeacherLoss:
    """A trained model, and what is compared with it. InputError where it has other modalities or tokenizers."""

    def __init__(self, section: Teacher, model: MultimodalModel, device: torch.device):
        self.section, self.student = section, model
        folder = checkpoints.weights_of(section.model)
        if folder is None:
            raise InputError(
                f"training.teacher.model: {section.model} holds no model; give the folder of a run, or of its model"
            )
        self.model = MultimodalModel.from_pretrained(folder).to(device).eval().requires_grad_(False)
        _check(section, model, self.model)
        pairs = section.layers or []
        self.seen = [_LayerRecorder(model, [pair[0] for pair in pairs], section.where)]
        self.seen.append(_LayerRecorder(self.model, [pair[1] for pair in pairs], section.where))

    def terms(self, batch: PackedBatch, output: Output, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality -> how far the output is from the teacher's, summed over the tokens that count; see
        `FurtherLosses.terms`."""
        own = self.seen[0].taken()
        with torch.no_grad():
            taught = self.model(batch)
        found = {}
        for name, mask in masks.items():
            apart = distance(name, output, taught, self.section.logits, self.section.temperature)
            found[name] = self.section.outputs * (apart * mask).sum()
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


class _LayerRecorder:
    """Records the outputs of chosen layers in a pass, in sequence order. where: "mixer" or "layer"."""

    def __init__(self, model: MultimodalModel, layers: Sequence[int], where: str):
        self.found: dict[int, Tensor] = {}
        for number in layers:
            block: Any = model.backbone.blocks[number]
            if where == "layer":
                block.register_forward_hook(self._hook(number, lambda inputs: inputs[1].routing))
            else:
                projection = _written_with(block, number)
                projection.register_forward_hook(self._hook(number, lambda inputs: inputs[1]))
        self.layers = list(layers)

    def _hook(self, number: int, routing_of: Callable) -> Callable:
        def keep(module, inputs, output):
            self.found[number] = routing_of(inputs).unsort(output)

        return keep

    def taken(self) -> list[Tensor]:
        found, self.found = self.found, {}
        return [found[number] for number in self.layers]


def _written_with(block: Any, number: int) -> Any:
    """The projection with which a layer's mixer writes to the residual stream; InputError where there is none."""
    for name in WRITES:
        if hasattr(block, name):
            return getattr(block, name)
    raise InputError(f"training.teacher.where: the mixer of layer {number} has no output; say layer")


def _check(section: Teacher, model: MultimodalModel, teacher: MultimodalModel) -> None:
    """InputError where the teacher has other modalities, tokenizers or layers than are to be compared."""
    where = f"training.teacher.model: {section.model}"
    if model.modalities != teacher.modalities:
        raise InputError(f"{where} has other modalities or another vocabulary; give one that was trained on the same")
    own, other = model.config.get("tokenizers") or {}, teacher.config.get("tokenizers") or {}
    for name in own.keys() & other.keys():
        if own[name] != other[name]:
            raise InputError(f"{where} was trained with another tokenizer of {name}; begin with training.init of it")
    for own_layer, other_layer in section.layers:
        _check_layer(own_layer, model, "this model")
        _check_layer(other_layer, teacher, "the teacher")
    if section.layers and model.backbone.dim != teacher.backbone.dim:
        raise InputError(
            f"training.teacher.layers: the teacher is {teacher.backbone.dim} wide and this model {model.backbone.dim}; "
            "layers are compared at one width, so leave them out"
        )


def _check_layer(number: int, model: MultimodalModel, whose: str) -> None:
    most = len(model.backbone.blocks) - 1
    require(0 <= number <= most, f"training.teacher.layers: {number} must be from 0 to {most}, the layers of {whose}")
