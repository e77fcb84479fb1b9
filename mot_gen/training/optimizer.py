"""AdamW over towers: Optimizer (groups, schedule, clipping, skipped steps), learning_rate.

Untied parameters are stacked, tower by tower, so a tower that is frozen or has a learning rate of its own is given to
AdamW as views of its slices. What is not given does not move by one bit: neither step nor weight decay touches it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError
from mot_gen.model import MultimodalModel
from mot_gen.training.recipe import Backbone, Training

MAX_SKIPPED = 20  # steps in a row whose gradient is not finite, after which the run is beyond hope


def learning_rate(step: int, training: Training) -> float:
    """Of the step-th step, from 0: linear warm-up to lr, then a cosine to min_lr at the last step."""
    if step < training.warmup_steps:
        return training.lr * (step + 1) / training.warmup_steps
    done = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return training.min_lr + (training.lr - training.min_lr) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


class Optimizer:
    """One AdamW step over a model: clip, set the rate, step; a step whose gradient is not finite is skipped."""

    def __init__(self, model: MultimodalModel, training: Training, backbone: Backbone):
        self.training, self.parameters = training, [p for p in model.parameters() if p.requires_grad]
        self.skipped = 0
        self.views: list[tuple[Tensor, int, Tensor]] = []  # (parameter, place, view of that slice)
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            decay = training.weight_decay if _decays(name, parameter) else 0.0
            for tensor, factor in self._shares(name, parameter, model, backbone):
                if factor:
                    groups.setdefault((decay, factor), []).append(tensor)
        if not groups:
            raise InputError("backbone.frozen: every tower is frozen, so nothing would be learned")
        self.adamw = torch.optim.AdamW(
            [{"params": tensors, "weight_decay": d, "factor": f} for (d, f), tensors in groups.items()],
            lr=training.lr,
            betas=training.betas,
            eps=training.eps,
            fused=True,
        )

    def _shares(self, name: str, parameter: nn.Parameter, model, backbone: Backbone) -> Iterator[tuple[Tensor, float]]:
        """(tensor for AdamW, factor on its rate): the parameter, or views of its towers where they differ."""
        towers = model.backbone.towers
        factors = [0.0 if tower in backbone.frozen else backbone.lr_factors.get(tower, 1.0) for tower in towers]
        untied = {f"backbone.{key}": slices for key, slices in model.backbone.untied_parameters().items()}
        if len(set(factors)) == 1:
            yield parameter, factors[0]
        elif name in untied:
            for place, tower in enumerate(untied[name]):
                view = parameter.data[place].requires_grad_()
                self.views.append((parameter, place, view))
                yield view, factors[tower]
        else:
            owner = _owner(name, model)
            yield parameter, 1.0 if owner is None else factors[owner]

    def step(self, step: int) -> tuple[float, float]:
        """Use the gradients, and clear them. Returns the learning rate and the gradient norm before clipping."""
        training = self.training
        norm = nn.utils.clip_grad_norm_(self.parameters, training.clip or math.inf).item()
        rate = learning_rate(step, training)
        if math.isfinite(norm):
            for group in self.adamw.param_groups:
                group["lr"] = rate * group["factor"]
            for parameter, place, view in self.views:
                view.grad = parameter.grad[place]
            self.adamw.step()
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped > MAX_SKIPPED:
                raise RuntimeError(
                    f"step {step}: the gradient was not finite in {self.skipped} steps in a row; go on from the last "
                    "checkpoint with a smaller training.lr"
                )
        for parameter in self.parameters:
            parameter.grad = None
        return rate, norm

    def state_dict(self) -> dict:
        """AdamW's state, and how many steps were skipped in a row."""
        return {"adamw": self.adamw.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        self.adamw.load_state_dict(state["adamw"])
        self.skipped = state["skipped"]


def _decays(name: str, parameter: Tensor) -> bool:
    """Matrices decay; norms, biases and embeddings do not."""
    return parameter.dim() >= 2 and not ("norm" in name or name.endswith("bias") or name.startswith("embedding"))


def _owner(name: str, model: MultimodalModel) -> int | None:
    """Tower of a parameter outside the untied ones: patch layers have their modality's, the embedding and the head the
    text's, a tied one none."""
    if name.startswith("backbone."):
        return None
    modality = name.split(".")[1] if name.startswith("patch_layers.") else model.modality_names[0]
    return int(model.backbone.tower_of[model.index_of[modality]])
