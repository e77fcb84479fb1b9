"""A run: all that training needs, built from a recipe, saved, restored. Run, prepare, save, restore, whole,
drop_later_metrics."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mot_gen.data.loader import Loader
from mot_gen.data.records import Splits
from mot_gen.errors import InputError
from mot_gen.files.whole import write_bytes
from mot_gen.model import MultimodalModel
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Augment
from mot_gen.training import checkpoint, parallel
from mot_gen.training.batches import Batches
from mot_gen.training.build import build_tokenizers, initial_values, load_splits, outline_model
from mot_gen.training.checkpoint_folders import step_of, steps_of
from mot_gen.training.further_losses import FurtherLosses
from mot_gen.training.meters import Meter
from mot_gen.training.optimizer import Optimizer
from mot_gen.training.origin import Origin
from mot_gen.training.random_state import random_state, set_random_state
from mot_gen.training.saver import Saver
from mot_gen.training.world import World, accumulation, choose, device

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
    tokenizers: Mapping[str, Any]
    outline: MultimodalModel  # on the meta device: shapes without values
    model: MultimodalModel
    network: Callable
    averaged: MultimodalModel
    loader: Loader
    batches: Batches
    optimizer: Optimizer
    accumulate: int
    saver: Saver
    meter: Meter
    further: FurtherLosses
    origin: Origin | None = None  # the checkpoint that a new run begins with
    step: int = 0
    tokens: int = 0
    flops: int = 0
    seconds: float = 0.0  # spent in training steps, over all sittings
    cpu_seconds: float = 0.0  # of the processes, likewise: on a shared machine the steadier clock
    unread_cpu_seconds: float = 0.0  # of this process, not yet in cpu_seconds
    skipped: int = 0  # how many steps in a row were not used when a step was last read

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


def prepare(
    recipe: Recipe,
    folder: Path,
    world: World | None = None,
    splits: Splits | None = None,
    trained_tokenizers: bool = True,
) -> Run:
    """Everything that a recipe names, built and in place at step 0; by default on this process alone.

    The tokenizers that it trains are written. No process holds more of a sharded model than its share, and one
    parameter. splits: those of the recipe, where they are loaded. trained_tokenizers: False to use untrained ones and
    write nothing.
    """
    training = recipe.training
    world = world or World(device=device(training.device))
    if training.threads:
        torch.set_num_threads(training.threads)
    if world.device.type == "cuda" and training.tf32:
        torch.set_float32_matmul_precision("high")
    origin = _origin(recipe, folder)
    splits = splits or load_splits(recipe)
    kept = folder if trained_tokenizers else None
    tokenizers = world.first_then_others(lambda: build_tokenizers(recipe, splits, kept, origin))
    outline = outline_model(recipe, tokenizers)
    kind = choose(training, world, sum(p.numel() for p in outline.parameters()))
    model = _placed(recipe, outline, world, kind, origin)
    loader = Loader(splits.train, tokenizers, recipe.data, training, world.rank, world.size)
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    meter = Meter(world, model.modality_names, loader.sources, training.peak_flops, dtype)
    accumulate, further = accumulation(training, world.size), FurtherLosses(training, model, world.device)
    return Run(
        recipe=recipe,
        folder=folder,
        world=world,
        kind=kind,
        splits=splits,
        tokenizers=tokenizers,
        outline=outline,
        model=model,
        network=parallel.wrap(model, world, kind),
        averaged=_averaged(recipe, outline, world, kind, origin, model),
        loader=loader,
        batches=Batches(loader, model, training, world, meter, further, accumulate),
        optimizer=Optimizer(model, training, recipe.backbone),
        accumulate=accumulate,
        saver=Saver(folder, world, training.keep_checkpoints),
        meter=meter,
        origin=origin,
        further=further,
    )


def _origin(recipe: Recipe, folder: Path) -> Origin | None:
    """Where training begins; None for a run that goes on, whose checkpoint has all that it took from there."""
    return None if steps_of(folder) else Origin.of(recipe)


def _placed(
    recipe: Recipe, outline: MultimodalModel, world: World, kind: str, origin: Origin | None
) -> MultimodalModel:
    """A model like the outline, on this process's device, with its initial values."""
    model = copy.deepcopy(outline)
    model.backbone.gradient_checkpointing = recipe.training.gradient_checkpointing
    if recipe.training.compile:
        model.compile_repeated_blocks()
    parallel.place(model, world, recipe.training, kind)
    parallel.fill(model, initial_values(recipe, outline, origin))
    return model


def _averaged(recipe: Recipe, outline, world: World, kind: str, origin, model: MultimodalModel) -> MultimodalModel:
    """The model with averaged weights; it shares those that do not learn with the model itself."""
    if not recipe.training.ema:
        return model
    averaged = _placed(recipe, outline, world, kind, origin)
    _share_frozen(averaged, model)
    return averaged.requires_grad_(False).eval()


def _share_frozen(other: MultimodalModel, model: MultimodalModel) -> None:
    """Give a second model the parameters of the first that do not learn."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            path, _, leaf = name.rpartition(".")
            setattr(other.get_submodule(path), leaf, parameter)


def reference_model(run: Run, origin: Origin, shared: bool) -> MultimodalModel:
    """A second model with the weights of an origin, which do not learn. shared: whether the run began with them too,
    so that those which do not learn are the run's own."""
    model = _placed(run.recipe, run.outline, run.world, "plain", origin)
    if shared:
        _share_frozen(model, run.model)
    return model.requires_grad_(False).eval()


def whole(run: Run) -> Run | None:
    """The run as hooks get it, on the first process, its averaged model in one piece; None on the others.

    Every process must ask.
    """
    if run.kind not in ("fsdp", "hsdp"):
        return run if run.world.first else None
    gathered = parallel.gather(run.averaged, copy.deepcopy(run.outline), run.world)
    if gathered is None:
        return None
    averaged = gathered.to(run.world.device)  # type: ignore[arg-type]  # diffusers' wrapper of `to` hides `self`
    return replace(run, averaged=averaged)


# ---------------------------------------------------------------- checkpoints


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
    states = run.world.gather(random_state())
    random = {f"{rank}.{name}": value for rank, named in enumerate(states) for name, value in named.items()}
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
