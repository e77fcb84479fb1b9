"""The training loop: Run, Hooks, train.

Every step is a function of the checkpoint alone: batches come from the loader's position, noise and times from
(seed, step), so that a run which was killed and resumed is bitwise the run that was not. The loop alone masks, weights
and reduces losses: sums over all batches of a step, divided by the global count of each modality, times its weight.
"""

from __future__ import annotations

import copy
import ctypes
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mot_gen.errors import InputError, Interrupted
from mot_gen.flops import forward_flops
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack_rows
from mot_gen.sequence import PackedBatch
from mot_gen.training import checkpoint
from mot_gen.training.build import TOKENIZERS, build_model, build_tokenizers, load_splits
from mot_gen.training.data import Loader
from mot_gen.training.optimizer import Optimizer
from mot_gen.training.progress import Progress
from mot_gen.training.recipe import Recipe
from mot_gen.training.records import Splits, sample_key
from mot_gen.training.stopping import Stop, stop_signals


@dataclass
class Run:
    """A run being trained. averaged: the model with exponentially averaged weights, or the model itself without EMA."""

    recipe: Recipe
    folder: Path
    splits: Splits
    tokenizers: Mapping[str, object]
    model: MultimodalModel
    averaged: MultimodalModel
    loader: Loader
    optimizer: Optimizer
    step: int = 0
    tokens: int = 0
    flops: int = 0
    seconds: float = 0.0  # spent in training steps, over all sittings
    cpu_seconds: float = 0.0  # of the process, likewise: on a shared machine the steadier clock


@dataclass(frozen=True)
class Hooks:
    """What the loop is handed from above, since it knows no pipeline and no metric; each is called with the run.

    sample: every `training.sample_every` steps. evaluate: every `evaluation.every` steps; its result goes to
    metrics.jsonl, beside the held-out losses. export: at the end, writes `model/`.
    """

    sample: Callable[[Run], None] = lambda run: None
    evaluate: Callable[[Run], dict] = lambda run: {}
    export: Callable[[Run], None] = lambda run: None


def train(recipe: Recipe, folder: str | Path, resume: bool = False, hooks: Hooks | None = None) -> Run:
    """Train a recipe into a folder, which one process at a time may write; first the tokenizers that it trains.

    Raises InputError where the folder has a run already (unless resume) or a checkpoint that does not fit, and
    Interrupted when stopped by SIGINT or SIGTERM, after a checkpoint was written.
    """
    folder, hooks = Path(folder), hooks or Hooks()
    with checkpoint.lock(folder):
        begun = _begun(folder, resume)
        run = prepare(recipe, folder)
        if begun:
            restore(run)
        recipe.save(folder / "recipe.yaml")
        with (
            closing(run.loader),
            stop_signals() as stop,
            Progress(recipe.training.steps, list(run.tokenizers), run.step) as bar,
        ):
            _steps(run, hooks, stop, bar)
        hooks.export(run)
    return run


def _begun(folder: Path, resume: bool) -> bool:
    """Whether the model's training has begun in a folder; a run that is stopped before has only its tokenizers."""
    begun = (folder / "checkpoints").exists()
    if begun and not resume:
        raise InputError(f"{folder}: has a run already; say --resume to go on with it, or give another --out")
    if resume and not begun and not (folder / TOKENIZERS).exists():
        raise InputError(f"{folder}: has no checkpoint to resume from; leave out --resume to begin")
    return begun


def prepare(recipe: Recipe, folder: Path) -> Run:
    """Everything that a recipe names, built and in place at step 0. Written are the tokenizers that it trains."""
    training = recipe.training
    if training.threads:
        torch.set_num_threads(training.threads)
    device = _device(training.device)
    splits = load_splits(recipe)
    tokenizers = build_tokenizers(recipe, splits, folder)
    model = build_model(recipe, tokenizers).to(device)
    averaged = copy.deepcopy(model).requires_grad_(False).eval() if training.ema else model
    if training.compile:
        for block in model.backbone.blocks:
            block.compile()
    loader = Loader(splits.train, tokenizers, recipe.data, training)
    optimizer = Optimizer(model, training, recipe.backbone)
    return Run(recipe, folder, splits, tokenizers, model, averaged, loader, optimizer)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device: cuda was asked for and there is none; say training.device=cpu or auto")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


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
    with open(run.folder / "metrics.jsonl", "a", encoding="utf-8") as log:
        while run.step < training.steps:
            entry = training_step(run)
            bar.update(run.step, **entry["losses"])
            last = run.step == training.steps
            if evaluation.every and (run.step % evaluation.every == 0 or last):
                entry["held_out"] = held_out_losses(run)
                entry |= {"evaluation": found} if (found := hooks.evaluate(run)) else {}
            if run.step % training.log_every == 0 or last or "held_out" in entry:
                log.write(json.dumps(entry) + "\n")
                log.flush()
            if training.sample_every and (run.step % training.sample_every == 0 or last):
                hooks.sample(run)
            if run.step % training.checkpoint_every == 0 or last or stop.requested:
                save(run)
            if run.step % TRIM_EVERY == 0:
                _release_free_memory()
            if stop.requested and not last:
                raise Interrupted(f"stopped at step {run.step}; go on with --resume --out {run.folder}")


def training_step(run: Run) -> dict:
    """One optimizer step over `training.accumulate` batches. Returns the line of metrics.jsonl."""
    started, cpu_started, training, model = time.perf_counter(), time.process_time(), run.recipe.training, run.model
    device = model.embedding.weight.device
    batches = [_next_batch(run, number, device) for number in range(training.accumulate)]
    counts = _sum_by_name(model.loss_masks(batch) for batch, _ in batches)
    sums: dict[str, Tensor] = {}
    for batch, targets in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            losses = model.losses(batch, model(batch), targets)
        masks = model.loss_masks(batch)
        terms = {name: (losses[name] * masks[name]).sum() for name in losses}
        weighted = (run.recipe.objectives[n].weight * term / counts[n].clamp_min(1) for n, term in terms.items())
        (sum(weighted) + model.backbone.auxiliary_loss() / training.accumulate).backward()
        sums = {name: sums.get(name, 0) + term.detach() for name, term in terms.items()}
    rate, norm = run.optimizer.step(run.step)
    if run.averaged is not model:
        # Young averages follow faster, so that the first thousand steps are not those of the initial weights.
        decay = min(training.ema, (run.step + 1) / (run.step + 10))
        torch._foreach_lerp_(list(run.averaged.parameters()), list(model.parameters()), 1 - decay)
    run.step += 1
    run.tokens += sum(int((batch.layout.document >= 0).sum()) for batch, _ in batches)
    run.flops += sum(3 * forward_flops(model, batch) for batch, _ in batches)
    run.seconds += time.perf_counter() - started
    run.cpu_seconds += time.process_time() - cpu_started
    means = {name: (sums[name] / counts[name]).item() for name in sums if counts[name] > 0}
    return {
        "step": run.step,
        "seconds": round(run.seconds, 3),
        "cpu_seconds": round(run.cpu_seconds, 3),
        "tokens": run.tokens,
        "flops": run.flops,
        "losses": means,
        "lr": rate,
        "grad_norm": norm,
        "fill": sum(batch.fill for batch, _ in batches) / len(batches),
    }


def _next_batch(run: Run, number: int, device: torch.device) -> tuple[PackedBatch, dict[str, Tensor]]:
    """The next batch, corrupted: noise and times depend on the seed, the step and the batch's number in it."""
    training, model = run.recipe.training, run.model
    batch = pack_rows(next(run.loader), model.modalities, training.row_length).to(device)
    # Hashed, because torch's CPU generator reads only the low 32 bits of a seed.
    seed = sample_key(f"noise/{training.seed}/{run.step}/{number}") >> 1
    return model.corrupt(batch, torch.Generator(device).manual_seed(seed))


def _sum_by_name(masks: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for each in masks:
        for name, mask in each.items():
            total[name] = total.get(name, 0) + mask.sum()
    return total


@torch.no_grad()
def held_out_losses(run: Run) -> dict[str, float]:
    """Mean loss by modality of the averaged model over one pass of the held-out samples, with the same times and noise
    every time it is asked."""
    model, training = run.averaged.eval(), run.recipe.training
    device, rows = model.embedding.weight.device, Loader(run.splits.held_out, run.tokenizers, run.recipe.data, training)
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for number, each in enumerate(rows.one_pass()):
        batch = pack_rows(each, model.modalities, training.row_length).to(device)
        batch, targets = model.corrupt(batch, torch.Generator(device).manual_seed(number))
        losses, masks = model.losses(batch, model(batch), targets), model.loss_masks(batch)
        for name, mask in masks.items():
            sums[name] = sums.get(name, 0) + (losses[name] * mask).sum()
            counts[name] = counts.get(name, 0) + mask.sum()
    run.averaged.train(run.averaged is run.model)
    return {name: (sums[name] / counts[name]).item() for name in sums if counts[name] > 0}


# ---------------------------------------------------------------- checkpoints


def save(run: Run) -> Path:
    """Write all that the next step depends on to `checkpoints/`."""
    tensors, skeleton = checkpoint.separate(run.optimizer.state_dict())
    groups = {"model": run.model.state_dict(), "optimizer": tensors, "random": checkpoint.random_state()}
    if run.averaged is not run.model:
        groups["ema"] = run.averaged.state_dict()
    state = {
        "optimizer": skeleton,
        "loader": run.loader.state_dict(),
        "counters": {name: getattr(run, name) for name in ("tokens", "flops", "seconds", "cpu_seconds")},
    }
    return checkpoint.save(run.folder, run.step, groups, state, keep=run.recipe.training.keep_checkpoints)


def restore(run: Run) -> None:
    """Go on from the newest good checkpoint of the run's folder; InputError where there is none or it does not fit."""
    newest = checkpoint.latest_good(run.folder)
    if newest is None:
        raise InputError(f"{run.folder}: has no checkpoint to resume from; leave out --resume to begin")
    saved = checkpoint.load(newest)
    load_weights(run.model, saved.tensors["model"], newest)
    if run.averaged is not run.model:
        load_weights(run.averaged, saved.tensors.get("ema", saved.tensors["model"]), newest)
    run.optimizer.load_state_dict(checkpoint.rejoin(saved.tensors["optimizer"], saved.state["optimizer"]))
    run.loader.load_state_dict(saved.state["loader"])
    checkpoint.set_random_state(saved.tensors["random"])
    run.step = saved.step
    for name, value in saved.state["counters"].items():
        setattr(run, name, value)
    _drop_later_metrics(run)


def load_weights(model: MultimodalModel, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy weights into a model; InputError that says what differs where they do not fit."""
    own = model.state_dict()
    for name in (*own, *weights):
        have, want = weights.get(name), own.get(name)
        if have is None or want is None or have.shape != want.shape:
            shapes = ["absent" if t is None else "x".join(map(str, t.shape)) for t in (have, want)]
            raise InputError(
                f"{source}: does not fit the recipe: {name} is {shapes[0]} there and {shapes[1]} in the recipe"
            )
    model.load_state_dict(weights)


def _drop_later_metrics(run: Run) -> None:
    """Remove lines of steps that will be made again, so that each step is logged once."""
    path = run.folder / "metrics.jsonl"
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if _step_of(line) <= run.step), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line that a kill cut off
