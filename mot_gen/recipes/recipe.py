"""Recipes: what to train, on what and how; YAML that is checked when it is read.

`Recipe` joins the sections of sections.py. `load_recipe` reads a file or a shipped recipe and applies `KEY=VALUE`
overrides, `recipe_of` takes a mapping; `Recipe.save` writes the resolved one; `differences` compares two;
`shipped_recipes` lists what comes with the package. Whatever is wrong becomes an `InputError` of one line: the file,
the dotted field, the value and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mot_gen.errors import InputError, require
from mot_gen.files.atomic import write_text
from mot_gen.files.safe_names import is_inside
from mot_gen.recipes.fields import SIZE, differing, field_of, override, set_field, take_field
from mot_gen.recipes.fitting import all_known, check_built, check_named
from mot_gen.recipes.implementations import ELSEWHERE, complaint
from mot_gen.recipes.sections import (
    Backbone,
    Data,
    Evaluation,
    Objective,
    Reinforce,
    Sampling,
    Section,
    Tokenizer,
    Training,
)
from mot_gen.recipes.yaml_files import NO_MAPPING, parse_yaml, read_mapping, read_recipe, shipped_recipes

__all__ = [
    "AUTO",
    "AUTO_FIELDS",
    "IMAGE_KIND",
    "IMAGE_TRAIN",
    "Recipe",
    "differences",
    "differing",
    "field_of",
    "load_recipe",
    "plain",
    "read_mapping",
    "recipe_of",
    "shipped_recipes",
    "with_fields",
]

AUTO = "auto"  # the value of a field that is read from the data or the machine when training begins
IMAGE_KIND, IMAGE_TRAIN = "tokenizers.image.kind", "tokenizers.image.train"
# Fields that may say so, in the order in which they are settled (mot_gen/training/defaults.py).
AUTO_FIELDS = (
    "tokenizers.text.vocab_size",
    "tokenizers.image.image_size",
    IMAGE_KIND,
    "tokenizers.image.patch_size",
    "tokenizers.image.color_channels",
    "training.row_length",
    "training.precision",
)


class Recipe(Section):
    """What to train, on what and how. The first tokenizer's modality is text; its objective is `next_token`."""

    name: str
    data: Data = Field(default_factory=Data)
    tokenizers: dict[str, Tokenizer] = Field(min_length=1)
    backbone: Backbone
    objectives: dict[str, Objective]
    training: Training = Field(default_factory=Training)
    sampling: Sampling = Field(default_factory=Sampling)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    reinforce: Reinforce | None = None  # learning from rewards; None = from the objectives' losses
    auto: list[str] = Field(default_factory=list)  # the fields that said `auto`, until they are settled

    @field_validator("name")
    @classmethod
    def _is_a_place_in_runs(cls, name: str) -> str:
        inside = name.strip(" ./") and "\0" not in name and is_inside(name, "runs")
        require(inside, f"{name!r} names no folder in runs/; give one such as cats, or another place by --out")
        return name

    @model_validator(mode="after")
    def _modalities_agree(self):
        modalities = list(self.tokenizers)
        self.objectives.setdefault(modalities[0], Objective(kind="next_token"))
        all_known("objectives", self.objectives, modalities)
        for name in modalities:
            missing = f"objectives.{name} is missing; give its kind: flow, diffusion or next_token"
            require(name in self.objectives, missing)
        all_known("backbone.patch_layers", self.backbone.patch_layers, modalities)
        all_known("backbone.token_layers", self.backbone.token_layers, modalities)
        return self

    @model_validator(mode="after")
    def _rewards_fit(self):
        section = self.reinforce
        if section is None:
            return self
        all_known("reinforce.writes", section.writes, self.tokenizers)
        begun = "reinforce: begins with a model that was trained; give its folder by training.init"
        require(self.training.init, begun)
        whole = "training.parallel: reinforce samples from whole models; say training.parallel=ddp"
        require(self.training.parallel not in ("fsdp", "hsdp"), whole)
        return self

    @model_validator(mode="after")
    def _autos_can_be_settled(self):
        all_known("auto", self.auto, AUTO_FIELDS)
        return self

    @model_validator(mode="after")
    def _named_are_there(self):
        check_named(self)
        return self

    def save(self, path: str | Path) -> None:
        """Writes the resolved recipe, every field of it; `load_recipe(path)` gives an equal one."""
        text = yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True, width=120)
        write_text(path, text)


Look = Callable[[Recipe, Callable[[], None]], None]


def plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON and YAML have it; fields that are still to be settled say `auto`."""
    unused = set() if recipe.reinforce else {"reinforce"}
    raw = recipe.model_dump(mode="json", exclude={"auto", *unused})
    for field in recipe.auto:
        set_field(raw, field, AUTO)
    return raw


def with_fields(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with other values at these dotted paths, checked anew. Fields that it gives are settled."""
    raw = recipe.model_dump(mode="json", exclude={"auto"})
    for field, value in values.items():
        set_field(raw, field, value)
    raw["auto"] = [field for field in recipe.auto if field not in values]
    return _checked(raw, recipe.name, [])


def differences(before: Recipe, after: Recipe) -> list[str]:
    """`field: value -> value` for every field in which two recipes differ, as when a run is resumed with another."""
    return differing(plain(before), plain(after))


# ---------------------------------------------------------------- reading


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), first: Look | None = None) -> Recipe:
    """Reads a recipe: a YAML file, or the name of a shipped one; `overrides` are `KEY=VALUE`, values in YAML.

    first: called before the recipe's implementations are imported, which takes seconds, with the recipe and the check
    that imports them; it may refuse the recipe.

    Raises InputError, one line, for a file that cannot be read and for every field that is unknown or wrong.
    """
    source = str(name_or_path)
    return recipe_of(parse_yaml(read_recipe(name_or_path), source), source, overrides, first)


def recipe_of(raw: Any, source: str, overrides: Sequence[str] = (), first: Look | None = None) -> Recipe:
    """The recipe that a mapping states, as `load_recipe`; `source` is what messages call it. `raw` is changed."""
    require(isinstance(raw, dict), f"{source}: {NO_MAPPING}, got {type(raw).__name__}")
    # A named size replaces the shape, and what is given beside it then changes that: so it comes first.
    in_order = sorted(overrides, key=lambda text: not text.startswith(f"{SIZE}="))
    overridden = [override(raw, text) for text in in_order]
    _check_emptied(raw, overridden)
    _check_length(raw, overridden)
    _take_auto(raw)
    return _checked(raw, source, overridden, first)


def _checked(raw: dict, source: str, overridden: Sequence[str], first: Look | None = None) -> Recipe:
    """The recipe of a mapping: what can be said without importing its implementations is said first."""
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise InputError(_with_source(_message(error), source, overridden)) from None

    def check() -> None:
        try:
            check_built(recipe)
        except ValueError as error:
            raise InputError(_with_source(str(error), source, overridden)) from None

    if first:
        first(recipe, check)
    check()
    return recipe


def _check_emptied(raw: dict, overridden: Sequence[str]) -> None:
    """Who asks for no records at all is not given the recipe's usual data without a word."""
    emptied = "data.records" in overridden and field_of(raw, "data.records") == []
    require(
        not emptied or "data.source" in overridden,
        "override data.records: names no file; give FILE, or data.source=NAME for data that come with the package",
    )


def _check_length(raw: dict, overridden: Sequence[str]) -> None:
    """Who says how long to train is told where it would not be done. Epochs of 0 stand for none, as in a recipe."""
    if "training.epochs" not in overridden:
        return
    by_steps, epochs = "training.steps" in overridden, field_of(raw, "training.epochs")
    require(by_steps or epochs != 0, "override training.epochs: 0 passes train nothing; give more, or training.steps")
    twice = "override training.epochs and training.steps: both say how long to train; give one of them"
    require(not by_steps or not epochs, twice)


def _take_auto(raw: dict) -> None:
    """Take the values `auto` out of a mapping, and list their fields under `auto`; defaults hold their places."""
    fields = [field for field in AUTO_FIELDS if field_of(raw, field) == AUTO]
    for field in fields:
        take_field(raw, field)
    # A section needs a kind all the same. If it says how to train, that is checked as for the kind that learns.
    if IMAGE_KIND in fields:
        set_field(raw, IMAGE_KIND, "image_patch" if field_of(raw, IMAGE_TRAIN) is None else "image_latent")
    if fields:
        raw["auto"] = [*raw.get("auto", []), *fields]


# ---------------------------------------------------------------- errors


def _message(error: ValidationError) -> str:
    """The first of a validation's errors."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    inside = _inside(field)
    if first["type"] == "extra_forbidden" and inside:
        return f"{field} is not known; did you mean {inside!r}?"
    if first["type"] == "value_error":
        return f"{field}: {first['ctx']['error']}".removeprefix(": ")
    return f"{field} {complaint(first, _neighbours(first['loc']))}"


def _inside(name: str) -> str:
    """The dotted path of a field that was named without its section, such as training.steps; "" for no such field."""
    name = ELSEWHERE.get(name, name)
    sections = ("training", "data", "sampling", "evaluation")
    homes = [section for section in sections if name in _neighbours((section, name))]
    return f"{homes[0]}.{name}" if homes else ""


def _with_source(message: str, source: str, overridden: Sequence[str]) -> str:
    """A message behind the file or the override that it comes from."""
    named = re.split(r"[:\s]", message, maxsplit=1)[0]
    is_overridden = any(f"{named}.".startswith(f"{key}.") for key in overridden)
    return f"override {message}" if is_overridden else f"{source}: {message}"


def _neighbours(location: tuple) -> Iterable[str]:
    """The keys that may stand beside the one at `location`."""
    section = Recipe
    for name in location[:-1]:
        field = getattr(section, "model_fields", {}).get(name)  # none for the number of an item or the key of a mapping
        if field:
            members = [each for each in get_args(field.annotation) if each is not type(None)]
            section = (members or [field.annotation])[-1]
    return getattr(section, "model_fields", ())
