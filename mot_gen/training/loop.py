"""Training a recipe into a folder: train; from preparing a run to exporting its model.

Every step is a function of the checkpoint alone: batches come from the loader's position, noise and times from
(seed, step, batch), so that a run which was killed and resumed is bitwise the run that was not. `sitting` makes the
steps, `step` a single one. Processes agree on what they do at the end of every step, and nowhere else.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from mot_gen.data.records import Splits
from mot_gen.errors import InputError
from mot_gen.files.alone import alone
from mot_gen.files.disk_errors import written_to
from mot_gen.files.progress import Progress
from mot_gen.files.stopping import stop_signals, stopping_at_once
from mot_gen.recipes.data_section import Data
from mot_gen.recipes.recipe import Recipe, field_of, read_mapping
from mot_gen.training import checkpoint
from mot_gen.training.build import check_parts, load_splits
from mot_gen.training.checkpoint_folders import has_begun
from mot_gen.training.defaults import settle
from mot_gen.training.origin import Origin
from mot_gen.training.resume import refuse_other_recipe
from mot_gen.training.run_state import drop_later_metrics, restore
from mot_gen.training.runs import Run, prepare, whole
from mot_gen.training.sitting import Hooks, data_changed, make_steps
from mot_gen.training.step import held_out_losses, training_step
from mot_gen.training.world import World, join

__all__ = ["REPORT", "Hooks", "held_out_losses", "prepare", "train", "training_step"]

REPORT = "report.json"  # in a run's folder: what was measured at its end


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
    begun = has_begun(folder, resume)
    with join(recipe.training) as world, stopping_at_once(_stop_message(folder, begun)), written_to(folder):
        say = _print_to_stderr if world.first else _drop
        splits = load_splits(recipe)
        recipe = settle(recipe, splits, folder, say)
        origin = None if begun else Origin.of(recipe)
        check_parts(recipe, origin)
        with _locked(folder, world):
            return _train(recipe, splits, folder, world, hooks, resume, say)


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _drop(line: str) -> None:
    """Only the first process prints; what all others would say is the same."""


def _train(
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    world: World,
    hooks: Hooks,
    resume: bool,
    say: Callable[[str], None],
) -> Run:
    """Train as `train` does, while this world holds the folder. say: shows a line to the user."""
    begun = has_begun(folder, resume)  # once more: another may have begun before this process held the folder
    if begun:
        refuse_other_recipe(folder, recipe, say)
    elif resume:
        say(f"{folder}: has no checkpoint to go on from, so training begins")
    run = prepare(recipe, folder, world, splits)
    try:
        finished = _run(run, hooks, begun, say)
    finally:
        run.close()
    return finished or run


def _run(run: Run, hooks: Hooks, begun: bool, say: Callable[[str], None]) -> Run | None:
    """Make all steps that are left, export and report. Returns the run on the first process, with its model whole."""
    _begin(run, begun, say)
    complete = begun and run.step == run.recipe.training.steps
    if run.world.first and not complete:
        (run.folder / REPORT).unlink(missing_ok=True)  # of fewer steps
    names = list(run.tokenizers)
    with stop_signals() as stop, Progress(run.recipe.training.steps, names, run.step, shown=run.world.first) as bar:
        if run.world.first:
            for line in run.loader.first_lines():
                bar.note(line)
        run.loader.tell(bar.wait)
        make_steps(run, hooks, stop, bar)
        for line in data_changed(run):
            bar.note(line)
    finished = whole(run)
    if finished is not None:
        _conclude(finished, hooks, complete)
    run.world.wait()
    return finished


def _begin(run: Run, begun: bool, say: Callable[[str], None]) -> None:
    """Restore the run's last checkpoint, if it has one, and bring its folder in order."""
    recipe, folder = run.recipe, run.folder
    if begun:
        restore(run)
    _settle_steps(run, say)
    if run.step > recipe.training.steps:
        raise InputError(
            f"training.steps: asks for {recipe.training.steps}, and {folder} has made {run.step} already; give more"
        )
    if (folder / "model").is_dir() and run.step < recipe.training.steps:
        say(f"{folder / 'model'}: is an earlier one until training ends; mot-gen export takes the newest checkpoint")
    if run.origin is not None:
        for line in run.origin.lines(recipe, run.model, run.tokenizers):
            say(line)
    if not begun and "source" not in recipe.data.model_fields_set:
        say(f"data: the recipe names none, so it learns {recipe.data.source}; name yours by data.records=FILE")
    for path in _trained_and_held_out(recipe.data):
        say(f"data.held_out_records: {path} is trained on too, so what is measured on it says nothing of new data")
    if run.world.first:
        drop_later_metrics(run)
        recipe.save(folder / "recipe.yaml")


def _trained_and_held_out(data: Data) -> list[str]:
    """The records that are named in both places."""
    trained = {Path(records.path).resolve() for records in data.records}
    return [path for path in data.held_out_records if Path(path).resolve() in trained]


def _conclude(run: Run, hooks: Hooks, complete: bool) -> None:
    """Export the model and report on it. complete: whether all steps were made before this sitting."""
    with alone(), stopping_at_once(f"stopped after the last step; go on with --resume --out {run.folder}"):
        hooks.export(run)
        run.recipe.save(run.folder / "recipe.yaml")  # with what the export chose: the guidance
        if not complete or not (run.folder / REPORT).exists():
            hooks.conclude(run)


def _settle_steps(run: Run, say: Callable[[str], None]) -> None:
    """Set `training.steps` to what `training.epochs` asks for; a run that goes on with the same keeps its steps."""
    training, before = run.recipe.training, run.folder / "recipe.yaml"
    if not training.epochs:
        return
    goes_on = run.step and before.exists()
    known = read_mapping(before) if goes_on else {}
    if field_of(known, "training.epochs") == training.epochs:
        training.steps = field_of(known, "training.steps")
    else:
        rows = training.rows * run.accumulate * run.world.size
        training.steps = max(1, math.ceil(training.epochs * run.loader.rows_an_epoch() / rows))
    say(f"training.epochs: {training.epochs:g} are {training.steps} steps")


def _stop_message(folder: Path, begun: bool) -> str:
    """The message where a run is stopped before its first step."""
    how = f"go on with --resume --out {folder}" if begun else "the same command begins again"
    return f"stopped before the first step; {how}"


@contextmanager
def _locked(folder: Path, world: World) -> Iterator[None]:
    """The first process holds the folder for all of them."""
    with checkpoint.lock(folder) if world.first else nullcontext():
        world.wait()
        yield
