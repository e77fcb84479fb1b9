"""A run: all that training needs, built from a recipe, saved, restored. Run, prepare, save, restore, whole,
drop_later_metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from mot_gen.data.loader import Loader
from mot_gen.data.records import Splits
from mot_gen.errors import InputError
from mot_gen.files.whole import write_text
from mot_gen.model import MultimodalModel
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Augment
from mot_gen.training import checkpoint, parallel
from mot_gen.training.build import build_tokenizers, initial_values, load_splits, outline_model
from mot_gen.training.meters import Meter
from mot_gen.training.optimizer import Optimizer
from mot_gen.training.parallel import World

COUNTERS = ("tokens", "flops", "seconds", "cpu_seconds")


@dataclass
class Run:
    """A run being trained, as one process of its world has it.

    kind: plain, ddp, fsdp or hsdp (see `parallel`). network: what is called in the model's place. averaged: the model
    with exponentially averaged weights, or the model itself without EMA. accumulate: batches a step of this process.
    Counters are of all processes together.
    """

    recipe: Recipe
    folder: Path
    world: World
    kind: str
    splits: Splits
    tokenizers: Mapping[str, object]
    model: MultimodalModel
    network: Callable
    averaged: MultimodalModel
    loader: Loader
    optimizer: Optimizer
    accumulate: int
    saver: checkpoint.Saver
    meter: Meter
    step: int = 0
    tokens: int = 0
    flops: int = 0
    seconds: float = 0.0  # spent in training steps, over all sittings
    cpu_seconds: float = 0.0  # of the processes, likewise: on a shared machine the steadier clock

    @cached_property
    def held_out(self) -> Loader:
        """The held-out samples, in the rows that they are measured in. Made once, so that media are tokenised once."""
        training = self.recipe.training.model_copy(update={"workers": 0})
        data = self.recipe.data.model_copy(update={"augment": Augment()})  # held-out pictures are left as they are
        loader = Loader(self.splits.held_out, self.tokenizers, data, training, self.world.rank, self.world.size)
        loader.plan.packing = self.loader.plan.packing
        return loader

    def close(self) -> None:
        """End the threads that work beside the loop."""
        self.loader.close()
        self.saver.close()


def prepare(recipe: Recipe, folder: Path, world: World | None = None) -> Run:
    """Everything that a recipe names, built and in place at step 0; by default on this process alone. Written
    are the tokenizers that it trains. No process holds more of a sharded model than its share, and one parameter."""
    training = recipe.training
    world = world or World(device=parallel.device(training.device))
    if training.threads:
        torch.set_num_threads(training.threads)
    splits = load_splits(recipe)
    tokenizers = world.first_then_others(lambda: build_tokenizers(recipe, splits, folder))
    outline = outline_model(recipe, tokenizers)
    kind = parallel.choose(training, world, sum(p.numel() for p in outline.parameters()))
    model = _model(recipe, outline, world, kind, tokenizers)
    averaged = model
    if training.ema:
        averaged = _model(recipe, outline, world, kind, tokenizers).requires_grad_(False).eval()
    loader = Loader(splits.train, tokenizers, recipe.data, training, world.rank, world.size)
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    return Run(
        recipe=recipe,
        folder=folder,
        world=world,
        kind=kind,
        splits=splits,
        tokenizers=tokenizers,
        model=model,
        network=parallel.wrap(model, world, kind),
        averaged=averaged,
        loader=loader,
        optimizer=Optimizer(model, training, recipe.backbone),
        accumulate=parallel.accumulation(training, world.size),
        saver=checkpoint.Saver(folder, world, training.keep_checkpoints),
        meter=Meter(world, model.modality_names, loader.sources, training.peak_flops, dtype),
    )


def _model(recipe: Recipe, outline: MultimodalModel, world: World, kind: str, tokenizers) -> MultimodalModel:
    model = outline_model(recipe, tokenizers)
    model.backbone.gradient_checkpointing = recipe.training.gradient_checkpointing
    if recipe.training.compile:
        model.compile_repeated_blocks()
    parallel.place(model, world, recipe.training, kind)
    parallel.fill(model, initial_values(recipe, outline))
    return model


def whole(run: Run) -> Run | None:
    """The run as hooks get it, on the first process, its averaged model in one piece; None on the others. Every
    process must ask."""
    if run.kind not in ("fsdp", "hsdp"):
        return run if run.world.first else None
    gathered = parallel.gather(run.averaged, outline_model(run.recipe, run.tokenizers), run.world)
    return None if gathered is None else replace(run, averaged=gathered.to(run.world.device))


# ---------------------------------------------------------------- checkpoints


def _tensors(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    """All tensors that the next step depends on, by group, of this process's shares; the random state aside."""
    groups = {"model": dict(run.model.named_parameters()), "optimizer": run.optimizer.tensors()}
    if run.averaged is not run.model:
        groups["ema"] = dict(run.averaged.named_parameters())
    return groups


def save(run: Run) -> None:
    """Begin to write all that the next step depends on to `checkpoints/`; `run.saver.wait()` ends it."""
    state = {
        "optimizer": run.optimizer.state_dict(),
        "loader": run.loader.state_dict(),
        "counters": {name: getattr(run, name) for name in COUNTERS},
        "processes": run.world.size,
    }
    states = run.world.gather(checkpoint.random_state())
    random = {f"{rank}.{name}": value for rank, named in enumerate(states) for name, value in named.items()}
    run.saver.save(run.step, {**_tensors(run), "random": random}, state)


def restore(run: Run) -> None:
    """Go on from the newest good checkpoint of the run's folder, however many processes wrote it; InputError where
    there is none or it does not fit."""
    newest = checkpoint.latest_good(run.folder, run.world)
    if newest is None:
        raise InputError(f"{run.folder}: has no checkpoint to resume from; leave out --resume to begin")
    saved = checkpoint.read(newest, _tensors(run))
    run.optimizer.load_state_dict(saved.state["optimizer"])
    run.loader.load_state_dict(saved.state["loader"])
    mine = f"{run.world.rank}."
    random = {name.removeprefix(mine): value for name, value in checkpoint.read_group(newest, "random").items()}
    if "cpu" in random:  # not where more processes go on than stopped
        checkpoint.set_random_state(random)
    run.step = saved.step
    for name, value in saved.state["counters"].items():
        setattr(run, name, value)


def drop_later_metrics(run: Run) -> None:
    """Remove lines of steps that will be made again, so that each step is logged once."""
    path = run.folder / "metrics.jsonl"
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if _step_of(line) <= run.step))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line that a kill cut off
