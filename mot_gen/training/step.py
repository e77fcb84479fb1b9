"""One optimizer step over the batches of all processes: training_step; and held_out_losses. For steps of other kinds:
Clock, StepCost, close_step, read_norm, autocast, average, add_gradients.

The loss of a modality is its sum over all batches of a step on all processes, divided by the global count, times its
weight. Nothing here waits for a GPU but the reading of what a step gave, which is one copy; the loop asks for it every
`training.log_every` steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from mot_gen.backbone.experts.moe import set_progress
from mot_gen.learning.supervision import Losses, Supervision, factors_of
from mot_gen.training import parallel
from mot_gen.training.batches import StepBatch, StepWork, pack_batch, with_targets
from mot_gen.training.runs import Run
from mot_gen.training.self_teaching import teacher_targets

K = TypeVar("K")


@dataclass
class _StepResult:
    """What came of a step, on the device. losses: (modalities,) their sums on this process. norm: of the gradient."""

    work: StepWork
    losses: Tensor
    norm: Tensor
    rate: float


def training_step(run: Run, read: bool = True) -> dict:
    """One optimizer step. Returns its line of metrics.jsonl.

    read: whether losses are read from the device. If not, the line is empty, and on a GPU the host does not wait.
    Raises Diverged where it reads that too many steps in a row could not be used.
    """
    clock = Clock()
    result = _run_step(run)
    work = result.work
    if not read:
        run.unread_cpu_seconds += clock.cpu_seconds
        _count(run, clock, work.tokens, work.flops)
        return {}
    own, norm = _read(run, result.losses, result.norm)
    losses = dict(zip(run.model.modality_names, run.world.sum(own)))
    run.cpu_seconds += run.world.sum([run.unread_cpu_seconds + clock.cpu_seconds])[0]
    run.unread_cpu_seconds = 0.0
    _count(run, clock, work.tokens, work.flops)
    line = _line(run, work.tokens, work.slots)
    line["losses"] = {name: loss / work.counts[name] for name, loss in losses.items() if work.counts[name]}
    return line | {"lr": result.rate, "grad_norm": norm}


class Clock:
    """When a step began."""

    def __init__(self):
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    @property
    def cpu_seconds(self) -> float:
        """Seconds that this process has computed since the step began."""
        return time.process_time() - self.cpu_started


class StepCost(NamedTuple):
    """What a step took on one process: tokens learned from, FLOPs, and slots of its batches."""

    tokens: float
    flops: float
    slots: float


def close_step(run: Run, clock: Clock, spent: StepCost, numbers: Mapping[K, float]) -> tuple[dict, dict[K, float]]:
    """Count a step of another kind.

    numbers: what this process has measured, under the same names in the same order on every process. Returns the
    beginning of the line of metrics.jsonl, and each number's sum over all processes.
    """
    tokens, flops, slots, cpu_seconds, *sums = run.world.sum([*spent, clock.cpu_seconds, *numbers.values()])
    run.cpu_seconds += cpu_seconds
    _count(run, clock, tokens, flops)
    return _line(run, tokens, slots), dict(zip(numbers, sums))


def read_norm(run: Run, norm: Tensor) -> float:
    """The norm of a step's gradient, for which the host waits; called before the step is counted. Diverged where too
    many steps in a row could not be used."""
    _, size = _read(run, norm.new_zeros(0), norm)
    return size


def _run_step(run: Run) -> _StepResult:
    """Make a step: gradients of its batches, the optimizer, the averaged weights. The host waits for none of it."""
    set_progress(run.model.backbone, run.step / run.recipe.training.steps)
    work = run.batches.take(run.step)
    sums = add_gradients(run, work)
    rate, norm = run.optimizer.step(run.step)
    average(run)
    run.batches.fetch(run.step + 1)
    return _StepResult(work, sums, norm, rate)


def add_gradients(run: Run, work: StepWork, weight: float = 1.0, more: bool = False) -> Tensor:
    """Forward and backward of all batches of a step. weight: of their losses, all modalities alike. more: whether other
    batches follow before the optimizer's step. Returns the sums of losses, (modalities,), on this process."""
    weights = {name: weight * objective.weight for name, objective in run.recipe.objectives.items()}
    factors = factors_of(weights, {name: work.counts[name] for name in weights})
    names = run.model.modality_names
    sums = torch.zeros(len(names), dtype=torch.float64, device=run.world.device)
    for made in work.batches:
        last = made is work.batches[-1] and not more
        sums += _sums(names, _backward(run, made, factors, weight, last), sums)
    return sums


def _backward(run: Run, made: StepBatch, factors: dict[str, float], weight: float, last: bool) -> Losses:
    """Forward and backward of one batch. Every tower is called, with no rows where the batch has none of its modality,
    so that processes whose batches differ make the same collectives. weight: of the auxiliary losses."""
    targets = {name: wanted.values for name, wanted in made.supervision.latents.items()}
    with autocast(run):
        supervision = with_targets(made, teacher_targets(run.averaged, made.teacher_batches, targets))
    with parallel.accumulating(run.network, last):
        with autocast(run):
            losses = _losses(run, made, supervision, factors)
        run.meter.lost(made.batch, made.source, supervision, losses.by_token)
        auxiliary = weight * run.model.backbone.auxiliary_loss() / (run.accumulate * run.world.size)
        (losses.total + auxiliary).backward()
    return losses


def _losses(run: Run, made: StepBatch, supervision: Supervision, factors: dict[str, float]) -> Losses:
    """The losses of one batch. Outputs for all tokens exist only where further losses compare them."""
    if not run.further.active:
        return run.network(made.batch, supervision, factors)
    targets = {name: wanted.values for name, wanted in supervision.latents.items()}
    return run.further.losses(run.network, run.model, made.batch, targets, factors)


def _sums(names: Sequence[str], losses: Losses, like: Tensor) -> Tensor:
    """(modalities,) sums of losses in double precision; 0 for what is only read."""
    none = like.new_zeros(())
    sums = {name: each.sum().double() for name, each in losses.by_token.items()}
    return torch.stack([sums.get(name, none) for name in names])


def autocast(run: Run) -> torch.autocast:
    """The precision that the recipe asks for."""
    return torch.autocast(run.world.device.type, torch.bfloat16, enabled=run.recipe.training.precision == "bf16")


@torch.no_grad()
def average(run: Run) -> None:
    """Move the averaged weights: young averages follow faster, so that the first thousand steps are not those of the
    initial weights."""
    if run.averaged is run.model:
        return
    decay = min(run.recipe.training.ema, (run.step + 1) / (run.step + 10))
    averaged, current = [], []
    for old, new in zip(run.averaged.parameters(), run.model.parameters()):
        if old is not new:  # what is frozen under adapters is one tensor in both models, and stays
            averaged.append(parallel.local(old))
            current.append(parallel.local(new))
    torch._foreach_lerp_(averaged, current, 1 - decay)


# ---------------------------------------------------------------- reading


def _read(run: Run, losses: Tensor, norm: Tensor) -> tuple[list[float], float]:
    """This process's losses and the norm of the gradient, for which the host waits once. Diverged where too many steps
    in a row could not be used."""
    *own, size, skipped = torch.cat([losses.double(), norm.double().view(1), run.optimizer.state[1:2]]).tolist()
    run.skipped = int(skipped)
    run.optimizer.refuse_many_skipped(run.step + 1, size, run.skipped)
    return own, size


def _count(run: Run, clock: Clock, tokens: float, flops: float) -> None:
    """Count a step that was made. tokens, flops: of all processes."""
    run.step += 1
    run.tokens, run.flops = run.tokens + int(tokens), run.flops + int(flops)
    seconds = time.perf_counter() - clock.started
    run.seconds += seconds
    run.meter.stepped(seconds, tokens, flops)


def _line(run: Run, tokens: float, slots: float) -> dict:
    """The beginning of a line of metrics.jsonl. tokens, slots: of the step, of all processes."""
    return {
        "step": run.step,
        "seconds": round(run.seconds, 3),
        "cpu_seconds": round(run.cpu_seconds, 3),
        "tokens": run.tokens,
        "flops": run.flops,
        "losses": {},
        "fill": tokens / slots,
    }


# ---------------------------------------------------------------- held-out data


@torch.no_grad()
def held_out_losses(run: Run) -> dict[str, float]:
    """Mean loss by modality of the averaged model over one pass of the held-out samples, with the same times and noise
    every time it is asked."""
    model, training, world = run.averaged.eval(), run.recipe.training, run.world
    batches, names = run.held_out.one_pass(), model.modality_names
    sums = torch.zeros(len(names), dtype=torch.float64, device=world.device)
    counts = [0.0] * len(names)
    for number in count(world.rank, world.size):
        rows = next(batches, None)
        if not any(world.max([rows is not None])):
            break
        # A process that has no batch left is needed still where the model is sharded.
        batch = pack_batch(rows or [[]], model, training, world.device)
        batch, targets = model.corrupt(batch, torch.Generator().manual_seed(number))
        supervision = model.supervise(batch, targets)
        counts = [old + supervision.counts.get(name, 0.0) for name, old in zip(names, counts)]
        with autocast(run):
            losses = model(batch.to(world.device), supervision.to(world.device), dict.fromkeys(names, 1.0))
        sums += _sums(names, losses, sums)
    parallel.reshard(model)
    model.train(model is run.model)
    both = world.sum([*sums.tolist(), *counts])
    totals = zip(names, both[: len(names)], both[len(names) :])
    return {name: total / count for name, total, count in totals if count}
