"""The training loop: Hooks, train, training_step, held_out_losses.

Every step is a function of the checkpoint alone: batches come from the loader's position, noise and times from
(seed, step, batch), so that a run which was killed and resumed is bitwise the run that was not. The loop alone masks,
weights and reduces losses: sums over all batches of a step on all processes, divided by the global count of each
modality, times its weight. Processes agree on what they do at the end of every step, and nowhere else.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mot_gen.backbone.moe import set_progress
from mot_gen.data.notices import Notices
from mot_gen.data.records import Splits, sample_key
from mot_gen.errors import Diverged, InputError, Interrupted
from mot_gen.files.progress import Progress
from mot_gen.files.room import written_to
from mot_gen.files.stopping import Stop, stop_signals, stopping_at_once
from mot_gen.flops import forward_flops
from mot_gen.packing import pack_rows
from mot_gen.recipes.recipe import Recipe, field_of, read_mapping
from mot_gen.sequence import PADDING, PackedBatch
from mot_gen.training import checkpoint, parallel
from mot_gen.training.build import check_parts, load_splits
from mot_gen.training.defaults import settled
from mot_gen.training.origin import Origin
from mot_gen.training.parallel import World
from mot_gen.training.resume import refuse_other_recipe
from mot_gen.training.runs import Run, drop_later_metrics, prepare, restore, save, whole
from mot_gen.training.self_teaching import self_taught
from mot_gen.training.steps import steps_of
from mot_gen.training.watch import Watcher, watchers

T = TypeVar("T")
REPORT = "report.json"  # in a run's folder: what was measured at its end


@dataclass(frozen=True)
class Hooks:
    """What the loop is handed from above, since it knows no pipeline and no metric.

    Each is called with the run, on the first process, where the averaged model is whole.

    sample: every `training.sample_every` steps.
    evaluate: every `evaluation.every` steps; its result goes to metrics.jsonl, beside the held-out losses.
    export: at the end, writes `model/`.
    conclude: after that, while the folder is still held; measures and reports. Not called again for a finished run.
    step: makes one step on every process, and returns the line of metrics.jsonl; None: `training_step`.
    """

    sample: Callable[[Run], None] = lambda run: None
    evaluate: Callable[[Run], dict] = lambda run: {}
    export: Callable[[Run], Any] = lambda run: None
    conclude: Callable[[Run], Any] = lambda run: None
    step: Callable[[Run], dict] | None = None


def train(recipe: Recipe, folder: str | Path, resume: bool = False, hooks: Hooks | None = None) -> Run:
    """Train a recipe into a folder, on all processes that torchrun started; first the tokenizers that it trains. One
    run at a time may write a folder. On the first process the averaged model of the returned run is whole.

    resume: go on from the newest good checkpoint, or begin where there is none.

    Raises InputError where the folder has a run already (unless resume), a checkpoint that does not fit, or no room;
    Interrupted when stopped by SIGINT or SIGTERM, after a checkpoint was written if a step was made; Diverged where
    the gradients stay unusable; and Lost where another process is gone.
    """
    folder, hooks, recipe = Path(folder), hooks or Hooks(), recipe.model_copy(deep=True)
    if recipe.reinforce and hooks.step is None:
        raise InputError("reinforce: learning from rewards needs the hooks of mot_gen.reinforce; use mot-gen train")
    begun = bool(steps_of(folder))
    if begun and not resume:
        raise InputError(f"{folder}: has a run already; say --resume to go on with it, or give another --out")
    with parallel.join(recipe.training) as world, stopping_at_once(_again(folder, begun)), written_to(folder):
        said = partial(print, file=sys.stderr, flush=True) if world.first else lambda line: None
        splits = load_splits(recipe)
        recipe = settled(recipe, splits, folder, said)
        check_parts(recipe, None if begun else Origin.of(recipe))
        with _locked(folder, world):
            return _trained(recipe, splits, folder, world, hooks, resume, said)


def _trained(
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    world: World,
    hooks: Hooks,
    resume: bool,
    said: Callable[[str], None],
) -> Run:
    begun = bool(steps_of(folder))  # once more: another may have begun before this process held the folder
    if begun and not resume:
        raise InputError(f"{folder}: has a run already; say --resume to go on with it, or give another --out")
    if begun:
        refuse_other_recipe(folder, recipe, said)
    elif resume:
        said(f"{folder}: has no checkpoint to go on from, so training begins")
    run = prepare(recipe, folder, world, splits)
    try:
        finished = _run(run, hooks, begun, said)
    finally:
        run.close()
    return finished or run


def _run(run: Run, hooks: Hooks, begun: bool, said: Callable[[str], None]) -> Run | None:
    """All steps that are left, and what comes after them. The run on the first process, with its model whole."""
    recipe, folder = run.recipe, run.folder
    if begun:
        restore(run)
    _settle_steps(run, said)
    if run.step > recipe.training.steps:
        raise InputError(
            f"training.steps: {recipe.training.steps} are asked for and {folder} has made {run.step}; give more"
        )
    if run.origin is not None:
        for line in run.origin.told(recipe, run.model, run.tokenizers):
            said(line)
    if run.world.first:
        drop_later_metrics(run)
        recipe.save(folder / "recipe.yaml")
    complete = begun and run.step == recipe.training.steps
    if run.world.first and not complete:
        (folder / REPORT).unlink(missing_ok=True)  # of fewer steps
    names = list(run.tokenizers)
    with stop_signals() as stop, Progress(recipe.training.steps, names, run.step, shown=run.world.first) as bar:
        for line in run.loader.first_lines() if run.world.first else ():
            bar.note(line)
        _steps(run, hooks, stop, bar)
        for line in _data_changed(run):
            bar.note(line)
    finished = whole(run)
    if finished is not None:
        with stopping_at_once(f"stopped after the last step; go on with --resume --out {folder}"):
            hooks.export(finished)
            recipe.save(folder / "recipe.yaml")  # with what the export chose: the guidance
            if not (complete and (folder / REPORT).exists()):
                hooks.conclude(finished)
    run.world.wait()
    return finished


def _settle_steps(run: Run, said: Callable[[str], None]) -> None:
    """Set `training.steps` to what `training.epochs` asks for; a run that goes on with the same keeps its steps."""
    training, before = run.recipe.training, run.folder / "recipe.yaml"
    if not training.epochs:
        return
    known = read_mapping(before) if run.step and before.exists() else {}
    if field_of(known, "training.epochs") == training.epochs:
        training.steps = field_of(known, "training.steps")
    else:
        rows = training.rows * run.accumulate * run.world.size
        training.steps = max(1, math.ceil(training.epochs * run.loader.rows_an_epoch() / rows))
    said(f"training.epochs: {training.epochs:g} are {training.steps} steps")


def _again(folder: Path, begun: bool) -> str:
    """What is said when a run is stopped before its first step."""
    how = f"go on with --resume --out {folder}" if begun else "the same command begins again"
    return f"stopped before the first step; {how}"


@contextmanager
def _locked(folder: Path, world: World) -> Iterator[None]:
    """The first process holds the folder for all of them."""
    with checkpoint.lock(folder) if world.first else nullcontext():
        world.wait()
        yield


def _hooked(run: Run, hook: Callable[[Run], T]) -> T | None:
    """What a hook gives on the first process; the others wait for it."""
    shown = whole(run)
    found = hook(shown) if shown is not None else None
    run.world.wait()
    return found


# ---------------------------------------------------------------- steps

TRIM_EVERY = 16  # steps


def _release_free_memory() -> None:
    """Give freed memory back to the system. Batches differ in their numbers of tokens by modality, and without this the
    holes that glibc keeps between their tensors grew by 1 to 4 MiB a step (docs/decisions.md)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _steps(run: Run, hooks: Hooks, stop: Stop, bar: Progress) -> None:
    training, evaluation = run.recipe.training, run.recipe.evaluation
    with _writers(run) as writers:
        while run.step < training.steps:
            try:
                entry = (hooks.step or training_step)(run)
            except Diverged as error:
                raise _diverged(run, error) from None
            bar.update(run.step, **entry["losses"])
            last = run.step == training.steps
            if evaluation.every and (run.step % evaluation.every == 0 or last):
                entry["held_out"] = held_out_losses(run)
                entry |= {"evaluation": found} if (found := _hooked(run, hooks.evaluate)) else {}
            if run.step % training.log_every == 0 or last or "held_out" in entry:
                entry |= run.meter.read() | {"skipped": _samples_skipped(run)}
                for write in writers:
                    write(entry)
            if training.sample_every and (run.step % training.sample_every == 0 or last):
                _hooked(run, hooks.sample)
            _keep(run, stop, last)
            if run.step % TRIM_EVERY == 0:
                _release_free_memory()


def _data_changed(run: Run) -> list[str]:
    """What was changed in the pictures that all processes have read, and how many samples were skipped."""
    changed = Notices().add(run.world.gather(run.loader.changed))
    skipped = _samples_skipped(run) + run.loader.broken.count
    lines = changed.lines(shown=1)
    if skipped:
        lines.append(f"{skipped:,} samples could not be used; mot-gen data validate names them")
    return [f"data: {line}" for line in lines]


def _samples_skipped(run: Run) -> int:
    """How many samples could not be used; processes tell one another, so that the cap on them is one of the run."""
    for found in run.world.gather(dict(run.loader.skipped)):
        run.loader.leave_out(found)
    return len(run.loader.skipped)


@contextmanager
def _writers(run: Run) -> Iterator[list[Watcher]]:
    """What takes the lines of metrics: the first process's file, and whatever `training.watch` names."""
    if not run.world.first:
        yield []
        return
    with (
        open(run.folder / "metrics.jsonl", "a", encoding="utf-8", buffering=1) as file,
        watchers(run.recipe, run.folder) as others,
    ):

        def write(line: dict) -> None:
            file.write(json.dumps(line) + "\n")

        yield [write, *others]


def _keep(run: Run, stop: Stop, last: bool) -> None:
    """Save where it is time; InputError where the last save failed, Interrupted where a process was asked to stop.

    While steps are skipped nothing is saved on the way and no checkpoint is removed: the weights may be ruined, and the
    last good ones are wanted. All processes agree, so that none is left waiting for another.
    """
    stopping, failed = run.world.max([stop.requested, run.saver.failed])
    if failed:
        run.saver.wait()
    sound = run.optimizer.skipped == 0
    if sound:
        run.saver.rotate()
    due = run.step % run.recipe.training.checkpoint_every == 0
    if (due and sound) or last or stopping:
        save(run)
    if stopping or last:
        run.saver.wait()
    if last and sound:
        run.saver.rotate()
    if stopping and not last:
        raise Interrupted(f"stopped at step {run.step}; go on with --resume --out {run.folder}")


def _diverged(run: Run, error: Diverged) -> Diverged:
    """The error, with the checkpoint to go on from: the newest whose weights are all finite."""
    run.saver.wait()
    good = next((folder for folder in steps_of(run.folder) if checkpoint.finite(folder)), None)
    advice = "no checkpoint was written before; begin anew with a smaller training.lr"
    if good is not None:
        advice = f"the last good checkpoint is {good}; go on from it with --resume and a smaller training.lr"
    return Diverged(f"{error}; {advice}")


def training_step(run: Run) -> dict:
    """One optimizer step over the batches of all processes. Returns the line of metrics.jsonl."""
    clock, model = Clock(), run.model
    batches = [_next_batch(run, number) for number in range(run.accumulate)]
    names = model.modality_names
    set_progress(model.backbone, run.step / run.recipe.training.steps)
    counts = dict(zip(names, run.world.sum(_by_modality(names, (model.loss_masks(b.batch) for b in batches)))))
    sums = [_backward(run, step_batch, counts, last=step_batch is batches[-1]) for step_batch in batches]
    rate, norm = run.optimizer.step(run.step)
    average(run)
    spent = [
        sum(int((b.batch.layout.document != PADDING).sum()) for b in batches),
        sum(3 * forward_flops(model, b.batch) + b.target_flops + run.further.flops(model, b.batch) for b in batches),
        sum(b.batch.ids.numel() for b in batches),
    ]
    line, losses = close_step(run, clock, spent, _by_modality(names, sums))
    line["losses"] = {name: loss / counts[name] for name, loss in zip(names, losses) if counts[name]}
    return line | {"lr": rate, "grad_norm": norm}


class Clock:
    """When a step began."""

    def __init__(self):
        self.started, self.cpu_started = time.perf_counter(), time.process_time()


def close_step(run: Run, clock: Clock, spent: Sequence[float], sums: Sequence[float]) -> tuple[dict, list[float]]:
    """Count a step that was made. spent: this process's tokens, FLOPs and slots. sums: further numbers of this process.
    Returns the beginning of the line of metrics.jsonl, and the sums over all processes."""
    mine = [*spent[:2], time.process_time() - clock.cpu_started, *spent[2:], *sums]
    tokens, flops, cpu_seconds, slots, *all_sums = run.world.sum(mine)
    run.step += 1
    run.tokens, run.flops = run.tokens + int(tokens), run.flops + int(flops)
    run.cpu_seconds += cpu_seconds
    seconds = time.perf_counter() - clock.started
    run.seconds += seconds
    run.meter.stepped(seconds, tokens, flops)
    line = {
        "step": run.step,
        "seconds": round(run.seconds, 3),
        "cpu_seconds": round(run.cpu_seconds, 3),
        "tokens": run.tokens,
        "flops": run.flops,
        "losses": {},
        "fill": tokens / slots,
    }
    return line, all_sums


@dataclass
class _Batch:
    """A corrupted batch, what should be said of it, the source of each document, (B, documents of a row), and the FLOPs
    that its targets took."""

    batch: PackedBatch
    targets: dict[str, Tensor]
    source: Tensor
    target_flops: int


def _next_batch(run: Run, number: int) -> _Batch:
    """Noise and times depend on the seed, the step and the batch's number in it, counted over all processes."""
    training, model, world = run.recipe.training, run.model, run.world
    started = time.perf_counter()
    rows = next(run.loader)
    batch = pack_rows(rows, model.modalities, training.row_length).to(world.device)
    run.meter.waited(time.perf_counter() - started)
    # Hashed, because torch's CPU generator reads only the low 32 bits of a seed.
    seed = sample_key(f"noise/{training.seed}/{run.step}/{number * world.size + world.rank}") >> 1
    batch, targets = model.corrupt(batch, torch.Generator(world.device).manual_seed(seed), tokens=True)
    with autocast(run):
        targets, flops = self_taught(run.averaged, batch, targets)
    most = max(1, *map(len, rows))
    source = torch.tensor([[sample.source for sample in row] + [0] * (most - len(row)) for row in rows])
    return _Batch(batch, targets, source, flops)


def _by_modality(names: Sequence[str], each: Iterable[dict[str, Tensor]]) -> list[float]:
    """Sums over batches of what they have by modality."""
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    for found in each:
        for name, values in found.items():
            sums[name] += values.sum().double()
    return [float(sums[name]) for name in names]


def _backward(run: Run, given: _Batch, counts: dict[str, float], last: bool) -> dict[str, Tensor]:
    """Forward and backward of one batch; its sum of losses by modality. Every tower is called, with no rows where the
    batch has none of its modality, so that processes whose batches differ make the same collectives."""
    model, batch = run.model, given.batch
    with parallel.accumulating(run.network, last):
        with autocast(run):
            output = run.network(batch)
            losses = model.losses(batch, output, given.targets)
            further = run.further.terms(run.network, model, batch, output, given.targets)
        masks = model.loss_masks(batch)
        run.meter.lost(batch, given.source, losses, masks)
        sums = {name: (losses[name] * masks[name]).sum() for name in losses}
        weights = run.recipe.objectives
        share = run.further.share_of_data()
        learned = {name: share * total + further.get(name, 0.0) for name, total in sums.items()}
        weighted = (weights[name].weight * total / max(counts[name], 1.0) for name, total in learned.items())
        (sum(weighted) + model.backbone.auxiliary_loss() / (run.accumulate * run.world.size)).backward()
    return {name: total.detach() for name, total in sums.items()}


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
    averaged, current = ([parallel.local(p) for p in m.parameters()] for m in (run.averaged, run.model))
    torch._foreach_lerp_(averaged, current, 1 - decay)


@torch.no_grad()
def held_out_losses(run: Run) -> dict[str, float]:
    """Mean loss by modality of the averaged model over one pass of the held-out samples, with the same times and noise
    every time it is asked."""
    model, training, world = run.averaged.eval(), run.recipe.training, run.world
    batches, names = run.held_out.one_pass(), model.modality_names
    sums, counts = [0.0] * len(names), [0.0] * len(names)
    for number in count(world.rank, world.size):
        rows = next(batches, None)
        if not any(world.max([rows is not None])):
            break
        # A process that has no batch left is needed still where the model is sharded.
        batch = pack_rows(rows or [[]], model.modalities, training.row_length).to(world.device)
        batch, targets = model.corrupt(batch, torch.Generator(world.device).manual_seed(number))
        with autocast(run):
            losses, masks = model.losses(batch, model(batch), targets), model.loss_masks(batch)
        terms = _by_modality(names, [{name: losses[name] * mask for name, mask in masks.items()}])
        sums = [old + new for old, new in zip(sums, terms)]
        counts = [old + new for old, new in zip(counts, _by_modality(names, [masks]))]
    parallel.reshard(model)
    model.train(model is run.model)
    both = world.sum([*sums, *counts])
    return {name: s / n for name, s, n in zip(names, both, both[len(names) :]) if n}
