"""The batches of a run's steps: Batches, StepWork, StepBatch.

All that depends on the data or on random numbers is decided on the host: which rows, times and noise, masks, targets,
and how many tokens count. Then a batch goes to the device. On a GPU that is one asynchronous copy, on a stream of its
own, and the batches of the next step are on their way while a step runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mot_gen.data.loader import Loader, Row
from mot_gen.data.records import sample_key
from mot_gen.flops import forward_flops
from mot_gen.learning.supervision import Supervision
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack_rows
from mot_gen.recipes.sections import Training
from mot_gen.sequence import PackedBatch
from mot_gen.sequence.moving import Movable
from mot_gen.training.further_losses import FurtherLosses
from mot_gen.training.meters import Meter
from mot_gen.training.self_teaching import TeacherBatch, teacher_batches, teacher_flops
from mot_gen.training.world import World


@dataclass
class StepBatch(Movable):
    """A corrupted batch with its targets.

    teacher_batches: what a teacher reads to make targets first, see self_teaching.py. source: (B, documents of a row),
    the data source of each document.
    """

    batch: PackedBatch
    supervision: Supervision
    teacher_batches: dict[str, TeacherBatch]
    source: Tensor


@dataclass
class StepWork:
    """The work of one step.

    batches: those of this process. counts: how many tokens of each modality count, tokens, slots, flops: of all
    processes together. position: where the data goes on after these batches.
    """

    batches: list[StepBatch]
    counts: dict[str, float]
    tokens: float
    slots: float
    flops: float
    position: Mapping[str, Any]


class Batches:
    """The work of each step, in order. number: how many batches a step has on this process."""

    def __init__(
        self,
        loader: Loader,
        model: MultimodalModel,
        training: Training,
        world: World,
        meter: Meter,
        further: FurtherLosses,
        number: int,
    ):
        self.further = further
        self.loader, self.model, self.training = loader, model, training
        self.world, self.meter, self.number = world, meter, number
        self._position: Mapping[str, Any] | None = None
        self._ahead: StepWork | None = None
        self._stream = torch.cuda.Stream(world.device) if world.device.type == "cuda" else None

    def take(self, step: int) -> StepWork:
        """The work of a step, on the device."""
        work, self._ahead = self._ahead or self._prepare(step), None
        if self._stream is not None:
            _hand_over(work.batches, self._stream)
        self._position = work.position
        return work

    def fetch(self, step: int) -> None:
        """Prepare a step's work ahead, and begin to copy it to the GPU; on a CPU nothing is gained by that."""
        if self._stream is not None and step < self.training.steps:
            self._ahead = self._prepare(step)

    def state_dict(self) -> Mapping[str, Any]:
        """The position of the data after the last work that was taken, whatever was fetched since."""
        if self._position is None:
            return self.loader.state_dict()
        return self._position

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after a position."""
        self.loader.load_state_dict(state)
        self._position = self._ahead = None

    def _prepare(self, step: int) -> StepWork:
        """The work of a step; its copy to the device has begun."""
        batches = [self.prepare_batch(step, number) for number in range(self.number)]
        position = self.loader.state_dict()
        names = self.model.modality_names
        by_batch = [[*self._costs(batch), *_counts(batch, names)] for batch in batches]
        of_this_process = [sum(column) for column in zip(*by_batch)]
        tokens, slots, flops, *counts = self.world.sum(of_this_process)
        on_device = [self._to_device(batch) for batch in batches]
        return StepWork(on_device, dict(zip(names, counts)), tokens, slots, flops, position)

    def prepare_batch(self, step: int, number: int) -> StepBatch:
        """A batch of a step, on the host. Noise and times depend on the seed, the step and the batch's number in it,
        counted over all processes."""
        started = time.perf_counter()
        rows = next(self.loader)
        batch = pack_batch(rows, self.model, self.training, self.world.device)
        self.meter.waited(time.perf_counter() - started)
        place = number * self.world.size + self.world.rank
        # Hashed, because torch's CPU generator reads only the low 32 bits of a seed.
        seed = sample_key(f"noise/{self.training.seed}/{step}/{place}") >> 1
        batch, targets = self.model.corrupt(batch, torch.Generator().manual_seed(seed), tokens=True)
        supervision = self.model.supervise(batch, targets)
        return StepBatch(batch, supervision, teacher_batches(self.model, batch), _sources(rows))

    def _costs(self, made: StepBatch) -> tuple[float, float, float]:
        """Tokens, slots and FLOPs of a batch."""
        flops = 3 * forward_flops(self.model, made.batch) + teacher_flops(self.model, made.teacher_batches)
        flops += self.further.flops(self.model, made.batch)
        return made.batch.tokens or 0, made.batch.ids.numel(), flops

    def _to_device(self, made: StepBatch) -> StepBatch:
        if self._stream is None:
            return made.to(self.world.device)
        with torch.cuda.stream(self._stream):
            return made.to(self.world.device)


def pack_batch(rows: Sequence[Row], model: MultimodalModel, training: Training, device: torch.device) -> PackedBatch:
    """Rows as a batch on the host, with as many slots as attention on the device wants."""
    length, slots = training.row_length, None
    if hasattr(model.backbone, "row_slots"):
        slots = model.backbone.row_slots(length, device)
    return pack_rows(rows, model.modalities, length, slots)


def _hand_over(batches: Sequence[StepBatch], stream: torch.cuda.Stream) -> None:
    """Let the stream that computes wait for the copies, and keep their memory until it has used it."""
    current = torch.cuda.current_stream()
    current.wait_stream(stream)
    for batch in batches:
        for tensor in batch.tensors():
            tensor.record_stream(current)


def _counts(made: StepBatch, names: Sequence[str]) -> list[float]:
    """How much of each modality a batch learns."""
    return [made.supervision.counts.get(name, 0.0) for name in names]


def _sources(rows: Sequence[Row]) -> Tensor:
    """(B, documents of a row) the source of each document, 0 where there is none."""
    sources = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.long)
    for number, row in enumerate(rows):
        sources[number, : len(row)] = torch.tensor([sample.source for sample in row], dtype=torch.long)
    return sources


def with_targets(made: StepBatch, targets: Mapping[str, Tensor]) -> Supervision:
    """The batch's supervision with some targets of continuous tokens exchanged, by modality."""
    latents = dict(made.supervision.latents)
    for name, values in targets.items():
        latents[name] = replace(latents[name], values=values)
    return replace(made.supervision, latents=latents)
