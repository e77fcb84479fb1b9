"""What of a run its checkpoints hold: save, restore; and drop_later_metrics, of the lines of steps made again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import torch

from mot_gen.errors import InputError
from mot_gen.files.atomic import write_bytes
from mot_gen.training import checkpoint
from mot_gen.training.checkpoint_folders import step_of
from mot_gen.training.random_state import random_state, set_random_state
from mot_gen.training.runs import Run

COUNTERS = ("tokens", "flops", "seconds", "cpu_seconds")


def _tensors(run: Run, saved: Collection[str] = ()) -> dict[str, dict[str, torch.Tensor]]:
    """All tensors that the next step depends on, by group, of this process's shares; the random state aside.

    Averages of weights that do not learn are these weights, and are left out, unless they are in the checkpoint (as
    earlier versions wrote it) whose names `saved` are.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {}
    groups["model"] = dict(run.model.named_parameters())
    groups["optimizer"] = run.optimizer.tensors()
    if run.averaged is not run.model:
        kept = {f"ema.{name}" for name, parameter in run.model.named_parameters() if parameter.requires_grad}
        kept.update(saved)
        groups["ema"] = {name: p for name, p in run.averaged.named_parameters() if f"ema.{name}" in kept}
    return groups


def save(run: Run) -> None:
    """Begin to write all that the next step depends on to `checkpoints/`; `run.saver.wait()` ends it."""
    state = {
        "optimizer": run.optimizer.state_dict(),
        "loader": run.batches.state_dict(),
        "counters": {name: getattr(run, name) for name in COUNTERS},
        "processes": run.world.size,
    }
    random: dict[str, torch.Tensor] = {}
    for rank, own in enumerate(run.world.gather(random_state())):
        random |= {f"{rank}.{name}": value for name, value in own.items()}
    run.saver.save(run.step, {**_tensors(run), "random": random}, state)


def restore(run: Run) -> None:
    """Go on from the newest good checkpoint of the run's folder, however many processes wrote it.

    InputError where there is none or it does not fit.
    """
    newest = checkpoint.latest_good(run.folder, run.world)
    if newest is None:
        raise InputError(f"{run.folder}: has no checkpoint to go on from; leave out --resume to begin")
    saved = checkpoint.peek(newest)
    state = _state_of(saved)
    _refuse_other_tokenizers(run, state["loader"])
    checkpoint.read(newest, _tensors(run, checkpoint.names_in(newest)))
    run.optimizer.load_state_dict(state["optimizer"])
    run.batches.load_state_dict(state["loader"])
    mine = f"{run.world.rank}."
    random = {name.removeprefix(mine): value for name, value in checkpoint.read_group(newest, "random").items()}
    if "cpu" in random:  # not where more processes go on than stopped
        set_random_state(random)
    run.step = saved.step
    for name, value in state["counters"].items():
        setattr(run, name, value)


def _state_of(saved: checkpoint.Checkpoint) -> dict[str, Any]:
    """The state of a checkpoint, with all that `restore` reads; InputError where it has another shape."""
    state = saved.state
    if saved.step != step_of(saved.folder):
        raise InputError(f"{saved.folder}: holds the step {saved.step}; give the folder the name of its own step")
    try:
        sound = set(state["counters"]) == set(COUNTERS)
        sound &= all(isinstance(value, (int, float)) for value in state["counters"].values())
        sound &= all(name in state["optimizer"] for name in ("updates", "skipped", "usual_norm"))
        sound &= all(isinstance(state["loader"][name], int) for name in ("epoch", "start", "consumed"))
        sound &= isinstance(state["loader"]["index"], dict)
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise InputError(
            f"{saved.folder / checkpoint.STATE}: is not of the shape of a run's state; remove {saved.folder} to go on "
            "from the checkpoint before it"
        )
    return state


def _refuse_other_tokenizers(run: Run, loader: Mapping[str, Any]) -> None:
    """InputError where the tokenizers are not those of the checkpoint, also where changed data is accepted."""
    before, now = loader["index"].get("tokenizers"), run.loader.state_dict()["index"]["tokenizers"]
    if before != now:
        raise InputError(
            f"{run.folder}: its tokenizers are not those that the checkpoint was trained with, so every id would have "
            "another meaning; bring them back, or begin anew with another --out"
        )


def drop_later_metrics(run: Run) -> None:
    """Remove lines of steps that will be made again, so that each step is logged once, and lines that are damaged."""
    path = run.folder / "metrics.jsonl"
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= run.step]
        write_bytes(path, b"".join(kept))


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; infinity for what is none, such as a line that a kill cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
