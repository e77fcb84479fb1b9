"""Targets that a model makes for itself while it trains, as shortcut models and mean flows do: teacher_batches,
teacher_targets.

`MultimodalModel.corrupt` has chosen spans that learn a step of the sampler (`Latents.step` above 0), in some rows of
the batch. A teacher, the model with averaged weights, makes their targets in the way of the objective. A `TeacherBatch`
holds the rows that it reads; they are chosen on the host, where the batch is packed.

Shapes: N tokens of a modality in the batch, k of them in the rows of a teacher batch, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mot_gen.flops import forward_flops
from mot_gen.model import MultimodalModel
from mot_gen.sequence import PackedBatch
from mot_gen.sequence.moving import Movable


@dataclass
class TeacherBatch(Movable):
    """What the teacher reads for one modality.

    rows: those rows of the batch in which a span learns a step. places: (k,) which of the batch's N tokens they hold.
    learns: (k,) bool, whether a token's span learns a step.
    """

    rows: PackedBatch
    places: Tensor
    learns: Tensor


def teacher_batches(model: MultimodalModel, batch: PackedBatch) -> dict[str, TeacherBatch]:
    """One for every modality whose objective takes steps, also where `batch` has no span that learns one: processes
    that share a sharded teacher make the same calls."""
    found = {}
    for name, objective in model.objectives.items():
        if getattr(objective, "takes_step", False) and objective.share > 0:
            found[name] = _teacher_batch(batch, name)
    return found


def _teacher_batch(batch: PackedBatch, name: str) -> TeacherBatch:
    latents = batch.latents[name]
    assert latents.step is not None
    learns = latents.per_token(latents.step) > 0
    row = latents.slots // batch.layout.shape[1]
    rows = row[learns].unique()
    if not len(rows):
        rows = torch.zeros(1, dtype=torch.long, device=row.device)
    places = torch.isin(row, rows).nonzero().flatten()
    return TeacherBatch(batch.select_rows(rows), places, learns[places])


def teacher_flops(model: MultimodalModel, batches: Mapping[str, TeacherBatch]) -> int:
    """FLOPs of the teacher: as many forward passes over each batch as the objective states."""
    total = 0
    for name, batch in batches.items():
        total += model.objectives[name].teacher_passes * forward_flops(model, batch.rows)
    return total


@torch.no_grad()
def teacher_targets(
    teacher: MultimodalModel, batches: Mapping[str, TeacherBatch], targets: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Modality -> targets (N, C): the teacher's for spans that learn a step, the given ones for all others. Modalities
    without a batch are left out."""
    return {name: _targets(teacher, name, batch, targets[name]) for name, batch in batches.items()}


def _targets(teacher: MultimodalModel, name: str, batch: TeacherBatch, target: Tensor) -> Tensor:
    latents = batch.rows.latents[name]

    def predict(values: Tensor, time: Tensor, step: Tensor) -> Tensor:
        given = replace(latents, values=values, time=time, step=step)
        return teacher(replace(batch.rows, latents={**batch.rows.latents, name: given})).latents[name]

    places = batch.places
    kept = target.index_select(0, places)
    found = teacher.objectives[name].teach(latents, kept, predict).to(target.dtype)
    return target.index_copy(0, places, torch.where(batch.learns[:, None], found, kept))
