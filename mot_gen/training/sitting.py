"""A sitting of a run, from its first step to its last: make_steps, and Hooks. Between steps it writes lines of metrics,
evaluates, draws samples and saves checkpoints. samples_skipped, data_changed: of the data that were read on the way.

On a CPU the losses of every step are read. On a GPU reading waits for the device, so they are read where a line of
metrics is due, before a checkpoint, and at the end.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from mot_gen.data.notices import Notices
from mot_gen.errors import Diverged, Interrupted
from mot_gen.files.alone import alone
from mot_gen.files.progress import Progress
from mot_gen.files.stopping import Stop
from mot_gen.training import checkpoint
from mot_gen.training.checkpoint_folders import steps_of
from mot_gen.training.run_state import save
from mot_gen.training.runs import Run, whole
from mot_gen.training.step import held_out_losses, training_step
from mot_gen.training.watch import watchers

T = TypeVar("T")


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


TRIM_EVERY = 16  # steps


def _release_free_memory() -> None:
    """Give freed memory back to the system. Batches differ in their numbers of tokens by modality, and without this the
    holes that glibc keeps between their tensors grew by 1 to 4 MiB a step (docs/decisions.md)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(frozen=True)
class _Due:
    """What is to be done after a step. read: whether the step's losses are read."""

    line: bool
    evaluation: bool
    sample: bool
    checkpoint: bool
    last: bool
    read: bool

    @classmethod
    def after(cls, run: Run, step: int) -> _Due:
        training, last = run.recipe.training, step == run.recipe.training.steps

        def due(every: int) -> bool:
            return every > 0 and (last or step % every == 0)

        evaluation = due(run.recipe.evaluation.every)
        line = evaluation or due(training.log_every)
        saved = due(training.checkpoint_every)
        on_host = run.world.device.type == "cpu"
        return cls(
            line=line,
            evaluation=evaluation,
            sample=due(training.sample_every),
            checkpoint=saved,
            last=last,
            read=line or saved or on_host,
        )


def make_steps(run: Run, hooks: Hooks, stop: Stop, bar: Progress) -> None:
    """All steps that are left. Interrupted where it was stopped on the way; Diverged where gradients stay unusable."""
    with _writers(run) as write:
        while run.step < run.recipe.training.steps:
            due = _Due.after(run, run.step + 1)
            line = _one_step(run, hooks, due)
            bar.update(run.step, **line.get("losses", {}))
            if due.evaluation:
                line |= _evaluate(run, hooks)
            if due.line:
                write(line | run.meter.read() | {"skipped": samples_skipped(run)})
            if due.sample:
                _call_hook(run, hooks.sample)
            _keep(run, stop, due)
            if run.step % TRIM_EVERY == 0:
                _release_free_memory()


def _one_step(run: Run, hooks: Hooks, due: _Due) -> dict[str, Any]:
    """Make a step, by the hooks' way where they have one: its line of metrics."""
    try:
        if hooks.step is not None:
            return hooks.step(run)
        return training_step(run, due.read)
    except Diverged as error:
        raise _divergence(run, error) from None


def _evaluate(run: Run, hooks: Hooks) -> dict[str, Any]:
    """What evaluation adds to a line."""
    found: dict[str, Any] = {"held_out": held_out_losses(run)}
    evaluation = _call_hook(run, hooks.evaluate)
    if evaluation:
        found["evaluation"] = evaluation
    return found


def _call_hook(run: Run, hook: Callable[[Run], T]) -> T | None:
    """What a hook gives on the first process; the others wait for it."""
    shown = whole(run)
    with alone():
        found = hook(shown) if shown is not None else None
    run.world.wait()
    return found


@contextmanager
def _writers(run: Run) -> Iterator[Callable[[dict], None]]:
    """What takes a line of metrics, to the first process's file and to whatever `training.watch` names."""
    if not run.world.first:
        yield lambda line: None
        return
    path = run.folder / "metrics.jsonl"
    with open(path, "a", encoding="utf-8", buffering=1) as file, watchers(run.recipe, run.folder) as others:

        def write(line: dict) -> None:
            file.write(json.dumps(line) + "\n")
            for watch in others:
                watch(line)

        yield write


def _keep(run: Run, stop: Stop, due: _Due) -> None:
    """Save where it is time; InputError where the last save failed, Interrupted where a process was asked to stop.

    While steps are skipped nothing is saved on the way and no checkpoint is removed: the weights may be ruined, and the
    last good ones are wanted. All processes agree, so that none is left waiting for another.
    """
    stopping, failed = run.world.max([stop.requested, run.saver.failed])
    if failed:
        run.saver.wait()
    if due.read or stopping:
        _save(run, due, ending=due.last or bool(stopping))
    if stopping and not due.last:
        raise Interrupted(f"stopped at step {run.step}; go on with --resume --out {run.folder}")


def _save(run: Run, due: _Due, ending: bool) -> None:
    """Save a checkpoint where one is due, and remove old ones. ending: whether this sitting ends here; it then saves in
    any case."""
    skipped = run.skipped if due.read else run.optimizer.skipped
    sound = skipped == 0
    if sound:
        run.saver.rotate()
    if ending or (due.checkpoint and sound):
        save(run)
    if ending:
        run.saver.wait()
    if due.last and sound:
        run.saver.rotate()


def _divergence(run: Run, error: Diverged) -> Diverged:
    """The error, with the checkpoint to go on from: the newest whose weights are all finite."""
    run.saver.wait()
    for folder in steps_of(run.folder):
        if checkpoint.finite(folder):
            advice = f"the last good checkpoint is {folder}; go on from it with --resume and a smaller training.lr"
            return Diverged(f"{error}; {advice}")
    return Diverged(f"{error}; no checkpoint was written before; begin anew with a smaller training.lr")


def data_changed(run: Run) -> list[str]:
    """What was changed in the pictures that all processes have read, and how many samples were skipped."""
    changed = Notices().add(run.world.gather(run.loader.changed))
    skipped = samples_skipped(run) + run.loader.broken.count
    lines = changed.lines(shown=1)
    if skipped:
        lines.append(f"{skipped:,} samples could not be used; mot-gen data validate names them")
    return [f"data: {line}" for line in lines]


def samples_skipped(run: Run) -> int:
    """How many samples could not be used; processes tell one another, so that the cap on them is one of the run."""
    for found in run.world.gather(dict(run.loader.skipped)):
        run.loader.leave_out(found)
    return len(run.loader.skipped)
