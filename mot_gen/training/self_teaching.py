"""Targets that a model makes for itself while it trains, as shortcut models and mean flows do: self_taught.

`MultimodalModel.corrupt` has chosen spans that learn a step of the sampler (`Latents.step` above 0), in some rows of
the batch. A teacher, the model with averaged weights, says what the target is, as the objective asks it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mot_gen.flops import forward_flops
from mot_gen.model import MultimodalModel
from mot_gen.sequence import PackedBatch


@torch.no_grad()
def self_taught(
    teacher: MultimodalModel, batch: PackedBatch, targets: dict[str, Tensor]
) -> tuple[dict[str, Tensor], int]:
    """The targets (N, C) by modality with those of spans that learn a step in place, and the FLOPs that it took.

    The teacher is called as often for every modality whose objective takes steps, also where this batch has no such
    span: processes that share a sharded teacher make the same calls.
    """
    made, flops = dict(targets), 0
    for name, objective in teacher.objectives.items():
        if getattr(objective, "takes_step", False) and objective.share > 0:
            made[name], spent = _targets_of(teacher, batch, targets[name], name)
            flops += spent
    return made, flops


def _targets_of(teacher: MultimodalModel, batch: PackedBatch, target: Tensor, name: str) -> tuple[Tensor, int]:
    latents = batch.latents[name]
    assert latents.step is not None
    steps = latents.per_token(latents.step)
    row = latents.slots // batch.layout.shape[1]
    rows = row[steps > 0].unique()
    if not len(rows):
        rows = torch.zeros(1, dtype=torch.long, device=row.device)
    part = batch.select_rows(rows)
    part_latents, flops = part.latents[name], 0

    def predict(values: Tensor, time: Tensor, step: Tensor) -> Tensor:
        nonlocal flops
        given = replace(
            part, latents={**part.latents, name: replace(part_latents, values=values, time=time, step=step)}
        )
        flops += forward_flops(teacher, given)
        return teacher(given).latents[name]

    within = torch.isin(row, rows)
    taught = teacher.objectives[name].teach(part_latents, target[within], predict).to(target.dtype)
    target = target.clone()
    target[within] = torch.where(steps[within, None] > 0, taught, target[within])
    return target, flops
