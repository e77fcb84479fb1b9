"""Whether a run may go on with a recipe: refuse_other_recipe, and what may change on the way.

A run's folder has the recipe that it was begun with. What a checkpoint was made by may not change under it: data,
tokenizers, backbone, objectives, and the settings that its random numbers and its optimizer depend on. How long, how
fast and on what it goes on may; so may the learning rate, which is lowered where training diverged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mot_gen.errors import InputError
from mot_gen.recipes.recipe import Recipe, differing, plain, read_mapping
from mot_gen.recipes.sections import Backbone, Data, Evaluation, Objective, Reinforce, Sampling, Tokenizer, Training

# Whole sections, or fields, that may change.
FREE = (
    "name",
    "sampling",
    "evaluation",
    "reinforce.watched",
    "data.accept_changed",
    "data.cache_mb",
    "data.outside_media",
    "training.steps",
    "training.epochs",
    "training.lr",
    "training.min_lr",
    "training.warmup_steps",
    "training.weight_decay",
    "training.clip",
    "training.spike",
    "training.rows",
    "training.accumulate",
    "training.global_rows",
    "training.parallel",
    "training.shard",
    "training.patience",
    "training.gradient_checkpointing",
    "training.log_every",
    "training.watch",
    "training.peak_flops",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.sample_every",
    "training.precision",
    "training.compile",
    "training.device",
    "training.threads",
    "training.workers",
    "training.max_corrupt",
)
SAID = ("training.lr", "training.min_lr", "training.rows", "training.accumulate", "training.global_rows")


def refuse_other_recipe(folder: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    """InputError, with every difference, unless a recipe is the one that the folder's run was begun with.

    say: shows a line to the user, here about changes that are allowed and bear on the course of training.
    """
    path = folder / "recipe.yaml"
    if not path.exists():
        say(f"{path}: is missing, so nothing says whether this is the recipe that the run was begun with")
        return
    found = differing(_complete(path), plain(recipe))
    refused = [line for line in found if not _is_free(_field(line), recipe)]
    if refused:
        raise InputError(
            f"{folder}: was begun with another recipe: {'; '.join(refused)}; undo that, or give another --out"
        )
    for line in found:
        if _field(line) in SAID:
            say(f"goes on with {line}")


def _field(line: str) -> str:
    return line.partition(":")[0]


def _is_free(field: str, recipe: Recipe) -> bool:
    """Whether a field may change."""
    if recipe.data.accept_changed and field.startswith("data."):
        return True
    return any(field == free or field.startswith(f"{free}.") for free in FREE)


def _complete(path: Path) -> dict[str, Any]:
    """A saved recipe with the defaults of fields that it does not name, as an earlier version may not have known them.

    Nothing that it names is imported.
    """
    raw = read_mapping(path)
    try:
        rewarded = {}
        if raw.get("reinforce"):
            rewarded = {"reinforce": Reinforce.model_validate(raw["reinforce"]).model_dump(mode="json")}
        return {
            "name": raw.get("name"),
            "data": Data.model_validate(raw.get("data", {})).model_dump(mode="json"),
            "tokenizers": _each(Tokenizer, raw, "tokenizers"),
            "backbone": Backbone.model_validate(raw.get("backbone", {})).model_dump(mode="json"),
            "objectives": _each(Objective, raw, "objectives"),
            "training": Training.model_validate(raw.get("training", {})).model_dump(mode="json"),
            "sampling": Sampling.model_validate(raw.get("sampling", {})).model_dump(mode="json"),
            "evaluation": Evaluation.model_validate(raw.get("evaluation", {})).model_dump(mode="json"),
            **rewarded,
        }
    except (ValidationError, AttributeError) as error:
        raise InputError(
            f"{path}: is no recipe of this version ({str(error).splitlines()[0]}); bring it back"
        ) from None


def _each(kind: type[Tokenizer] | type[Objective], raw: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {name: kind.model_validate(value).model_dump(mode="json") for name, value in raw.get(section, {}).items()}
