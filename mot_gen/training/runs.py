"""A run: all that training needs, built from a recipe. Run, prepare, reference_model, whole. What of it is saved and
restored is in run_state.py."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mot_gen.data.loader import Loader
from mot_gen.data.records import Splits
from mot_gen.errors import require
from mot_gen.model import MultimodalModel
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Augment, Training
from mot_gen.tokenizers.pretrained import move
from mot_gen.training import parallel
from mot_gen.training.batches import Batches
from mot_gen.training.build import build_tokenizers, initial_values, load_splits, outline_model
from mot_gen.training.checkpoint_folders import steps_of
from mot_gen.training.compiling import is_compiled
from mot_gen.training.further_losses import FurtherLosses
from mot_gen.training.meters import Meter
from mot_gen.training.optimizer import Optimizer
from mot_gen.training.origin import Origin
from mot_gen.training.saver import Saver
from mot_gen.training.world import World, accumulation, choose, device


@dataclass
class Run:
    """A run being trained, as one process of its world has it.

    kind: plain, ddp, fsdp or hsdp (see `parallel`).
    network: what is called in the model's place.
    averaged: the model with exponentially averaged weights, or the model itself without EMA.
    accumulate: batches of a step, on this process.

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
    world = world or World(device=device(recipe.training.device))
    _set_up_torch(recipe.training, world.device)
    origin = None
    if not steps_of(folder):  # the checkpoint of a run that goes on has all that it took from there
        origin = Origin.of(recipe)
    splits = splits or load_splits(recipe)
    kept = folder if trained_tokenizers else None
    tokenizers = world.first_then_others(lambda: build_tokenizers(recipe, splits, kept, origin))
    move(tokenizers.values(), world.device)
    return _build(recipe, folder, world, splits, tokenizers, origin)


def _build(
    recipe: Recipe,
    folder: Path,
    world: World,
    splits: Splits,
    tokenizers: Mapping[str, Any],
    origin: Origin | None,
) -> Run:
    """A run at step 0, of its data and tokenizers."""
    training = recipe.training
    outline = outline_model(recipe, tokenizers)
    kind = choose(training, world, sum(p.numel() for p in outline.parameters()))
    plan = _ModelPlan(recipe, outline, world, kind, origin)
    model = plan.model()
    loader = Loader(splits.train, tokenizers, recipe.data, training, world.rank, world.size)
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    meter = Meter(world, model.modality_names, loader.sources, training.peak_flops, dtype)
    accumulate = accumulation(training, world.size)
    further = FurtherLosses(training, model, world.device)
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
        averaged=plan.averaged(model) if training.ema else model,
        loader=loader,
        batches=Batches(loader, model, training, world, meter, further, accumulate),
        optimizer=Optimizer(model, training, recipe.backbone),
        accumulate=accumulate,
        saver=Saver(folder, world, training.keep_checkpoints),
        meter=meter,
        origin=origin,
        further=further,
    )


def _set_up_torch(training: Training, device: torch.device) -> None:
    """The number of threads and the precision of products that the recipe asks for, in all of this process."""
    if training.threads:
        torch.set_num_threads(training.threads)
    if device.type == "cuda" and training.tf32:
        torch.set_float32_matmul_precision("high")


@dataclass(frozen=True)
class _ModelPlan:
    """How a model is made on this process.

    outline: its shapes. kind: how its parameters are shared out, see `parallel`. origin: whose weights it begins with;
    None for drawn ones.
    """

    recipe: Recipe
    outline: MultimodalModel
    world: World
    kind: str
    origin: Origin | None

    def model(self) -> MultimodalModel:
        """The model on this process's device, with its initial values."""
        model = copy.deepcopy(self.outline)
        self._set_checkpointing(model.backbone)
        if is_compiled(self.recipe, model, self.world.device):
            model.compile_repeated_blocks()
        parallel.place(model, self.world, self.recipe.training, self.kind)
        parallel.fill(model, initial_values(self.recipe, self.outline, self.origin))
        return model

    def _set_checkpointing(self, backbone: Any) -> None:
        """Let blocks be recomputed, if that is asked for. InputError where a backbone of one's own does not do so."""
        asked, kind = self.recipe.training.gradient_checkpointing, self.recipe.backbone.kind
        able = hasattr(backbone, "gradient_checkpointing")
        require(able or not asked, f"training.gradient_checkpointing: backbone {kind} cannot do that; leave it out")
        backbone.gradient_checkpointing = asked

    def averaged(self, model: MultimodalModel) -> MultimodalModel:
        """Another with the same values, to be averaged into; it shares those that do not learn with the model."""
        averaged = self.model()
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
    model = _ModelPlan(run.recipe, run.outline, run.world, "plain", origin).model()
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
