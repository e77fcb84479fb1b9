"""What a command refuses before torch is imported, which takes seconds: refuse_missing, refuse_unwritable, check_run.

The libraries check all of this again, and more; here what a look at the file system shows, and what their own checks
can say without torch (without_torch.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mot_gen import checkpoints
from mot_gen.commands.without_torch import refuse_early
from mot_gen.errors import InputError, require
from mot_gen.files.hub import require_local

if TYPE_CHECKING:
    from mot_gen.recipes.recipe import Recipe
    from mot_gen.recipes.sections import Data, Evaluation, Training


def refuse_missing(paths: Iterable[str | Path | None], what: str = "") -> None:
    """InputError for the first path where nothing is; None stands for one that was not given. what: said behind it."""
    for path in paths:
        if path is not None and not Path(path).exists():
            raise InputError(f"{path}: no such file or folder{what}")


def refuse_unwritable(out: str | Path) -> None:
    """InputError where no folder can be made, or none that is there be written to."""
    out = Path(out)
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        reason = "File exists" if there == out else f"{there} is no folder"
        raise InputError(f"{out}: cannot be written to: {reason}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{out}: cannot be written to: {there} may not be written; give another folder")


def check_run(
    recipe: Recipe, check: Callable[[], None], out: Path | None = None, also: Callable[[], None] = lambda: None
) -> None:
    """InputError where files that a recipe names are not there, a run cannot be written to `out`, or its
    implementations refuse it.

    check: the recipe's own, which asks the implementations. also: what else is checked without torch, if it can be.
    """
    _check_files(recipe)
    _check_evaluation(recipe.evaluation)
    checks = [check, also, lambda: _check_tokenizers(recipe)]
    if recipe.reinforce:
        checks.append(lambda: _check_rewards(recipe))
    if out is not None:
        refuse_unwritable(out)
        checks.append(lambda: _check_world(recipe.training))
    refuse_early(*checks)


def _check_files(recipe: Recipe) -> None:
    """InputError where a recipe's records, or the models and tokenizers that it begins with, are not there."""
    for field, path in _records(recipe.data):
        _check_records(field, path)
    for name, tokenizer in recipe.tokenizers.items():
        if tokenizer.path:
            require_local(f"tokenizers.{name}.path", checkpoints.locate(tokenizer.path))
    for field, model in _models(recipe):
        if checkpoints.weights_of(model) is None:
            raise InputError(f"{field}: {model} holds no model; {_remedy(recipe.name, model)}")
    if recipe.reinforce:
        refuse_missing(recipe.reinforce.preferences, " (reinforce.preferences)")


def _check_world(training: Training) -> None:
    """InputError where a run needs other processes, or a device that is not here; a plan does without them."""
    from mot_gen.training.world import accumulation, device

    accumulation(training, int(os.environ.get("WORLD_SIZE", 1)))
    device(training.device)


def _check_tokenizers(recipe: Recipe) -> None:
    """InputError for objectives that do not fit their tokenizers, and for tokenizers that cannot be made, as far as is
    known before data are read."""
    from mot_gen.training.origin import Origin
    from mot_gen.training.tokenizer_building import check_objectives, untrained_tokenizers

    check_objectives(recipe)
    if not recipe.auto:
        untrained_tokenizers(recipe, Origin.unread(recipe))


def _check_rewards(recipe: Recipe) -> None:
    """InputError for rewards that cannot be made, as far as is known before data and models are read."""
    from mot_gen.reinforce.rewards import check_rewards

    check_rewards(recipe)


def _records(data: Data) -> Iterator[tuple[str, str]]:
    """All paths and addresses of records that a recipe reads, each with its field."""
    yield from (("data.records", records.path) for records in data.records)
    yield from (("data.held_out_records", path) for path in data.held_out_records)
    if data.rehearsal:
        yield from (("data.rehearsal.records", records.path) for records in data.rehearsal.records)


def _check_records(field: str, path: str) -> None:
    """InputError for local records that are not there, or of no kind that is read. field: of the recipe, that names
    them."""
    if "://" in path:
        return
    from mot_gen.data.records import reader_of
    from mot_gen.data.remote import place

    found = place(path)
    if isinstance(found, Path):
        require("\0" not in path and found.exists(), f"{path}: no such file or folder ({field})")
    reader_of(found)
    if isinstance(found, Path) and found.is_dir():
        require(any(found.iterdir()), f"{path}: holds no record")


def _check_evaluation(section: Evaluation) -> None:
    """InputError for an unknown metric, or files that metrics would read and that are not there."""
    from mot_gen.eval.by_name import EVALUATED, SETS, MetricOptions, chosen_names
    from mot_gen.eval.images.extractor_names import check_extractor

    names = chosen_names(section.metrics, EVALUATED, "evaluation.metrics") if section.metrics else []
    check_extractor(section.extractor)
    refuse_missing([section.weights], " (evaluation.weights)")
    refuse_missing([section.clip], " (evaluation.clip)")
    choices = MetricOptions(clip=section.clip)  # type: ignore[arg-type] # a folder; here only whether there is one
    for name in names:
        EVALUATED[name].check(choices)
    if SETS.keys() & set(names):
        refuse_early(lambda: _load_extractor(section))


def _load_extractor(section: Evaluation) -> None:
    from mot_gen.eval.images.extractors import load_extractor

    load_extractor(section.extractor, weights=section.weights)


def _models(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The fields that name trained models, and what they say."""
    training, reinforce = recipe.training, recipe.reinforce
    if training.init:
        yield "training.init", training.init
    if training.teacher:
        yield "training.teacher.model", training.teacher.model
    if reinforce and reinforce.reference:
        yield "reinforce.reference", reinforce.reference


def _remedy(name: str, model: str) -> str:
    """What to do where a model to begin with is not there: the command that makes it, where a shipped recipe's first
    lines say it."""
    from mot_gen.recipes.yaml_files import (  # which the commands without a recipe do not need
        read_recipe,
        shipped_recipes,
    )

    elsewhere = "give the folder of a run, or of its model"
    if name not in shipped_recipes():
        return elsewhere
    for line in read_recipe(name).splitlines():
        if line.startswith("#") and line.endswith(f"--out {model}"):
            return f"make it with: {line.lstrip('# ')}"
    return elsewhere
