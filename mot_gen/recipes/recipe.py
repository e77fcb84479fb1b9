"""Recipes: what to train, on what and how; YAML that is checked when it is read.

`Recipe` joins the sections of sections.py. `load_recipe` reads a file or a shipped recipe and applies `KEY=VALUE`
overrides, `recipe_of` takes a mapping; `Recipe.save` writes the resolved one; `differences` compares two; `shipped`
lists what comes with the package. Whatever is wrong becomes an `InputError` of one line: the file, the dotted field,
the value and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from mot_gen.backbone import PRESETS
from mot_gen.errors import InputError, nearest, require
from mot_gen.files.whole import write_text
from mot_gen.recipes.fields import differing, field_of, override, set_field, take_field
from mot_gen.recipes.implementations import built, check_trainable, complaint, member_of, module_of
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
from mot_gen.recipes.yaml_files import NO_MAPPING, parse_yaml, read_mapping, read_recipe, shipped

__all__ = [
    "AUTO",
    "AUTO_FIELDS",
    "Recipe",
    "differences",
    "differing",
    "field_of",
    "load_recipe",
    "plain",
    "read_mapping",
    "recipe_of",
    "shipped",
    "with_fields",
]

SOURCES = ("digits", "emoji_scenes", "openmoji", "reach", "records")
AUTO = "auto"  # the value of a field that is read from the data or the machine when training begins
# Fields that may say so, in the order in which they are settled (mot_gen/training/defaults.py).
AUTO_FIELDS = (
    "tokenizers.text.vocab_size",
    "tokenizers.image.image_size",
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

    @model_validator(mode="after")
    def _modalities_agree(self):
        modalities = list(self.tokenizers)
        self.objectives.setdefault(modalities[0], Objective(kind="next_token"))
        _all_known("objectives", self.objectives, modalities)
        for name in modalities:
            missing = f"objectives.{name} is missing; give its kind: flow, diffusion or next_token"
            require(name in self.objectives, missing)
        _all_known("backbone.patch_layers", self.backbone.patch_layers, modalities)
        _all_known("backbone.token_layers", self.backbone.token_layers, modalities)
        return self

    @model_validator(mode="after")
    def _rewards_fit(self):
        section = self.reinforce
        if section is None:
            return self
        _all_known("reinforce.writes", section.writes, self.tokenizers)
        begun = "reinforce: begins with a model that was trained; give its folder by training.init"
        require(self.training.init, begun)
        whole = "training.parallel: reinforce samples from whole models; say training.parallel=ddp"
        require(self.training.parallel not in ("fsdp", "hsdp"), whole)
        return self

    @model_validator(mode="after")
    def _autos_can_be_settled(self):
        _all_known("auto", self.auto, AUTO_FIELDS)
        return self

    @model_validator(mode="after")
    def _implementations_fit(self):
        self._kinds_are_there()
        source = module_of("data.source", "mot_gen.datasets", self.data.source, SOURCES)
        member_of("data.source", source, "load")
        if self.data.rehearsal:
            field = "data.rehearsal.source"
            member_of(field, module_of(field, "mot_gen.datasets", self.data.rehearsal.source, SOURCES), "load")
        for name, tokenizer in self.tokenizers.items():
            module_of(f"tokenizers.{name}.kind", "mot_gen.tokenizers", tokenizer.kind)
            check_trainable(f"tokenizers.{name}", tokenizer)
        for name, objective in self.objectives.items():
            field = f"objectives.{name}"
            module = module_of(f"{field}.kind", "mot_gen.objectives", objective.kind)
            built(field, member_of(field, module, "Objective"), objective.options)
        return self

    def _kinds_are_there(self) -> None:
        """InputError for a kind that is not, before the modules of the others are imported, and torch with them."""
        for name, objective in self.objectives.items():
            module_of(f"objectives.{name}.kind", "mot_gen.objectives", objective.kind)
        module, _ = PRESETS.get(self.backbone.kind, (self.backbone.kind, {}))
        module_of("backbone.kind", "mot_gen.backbone", module, PRESETS)

    @model_validator(mode="after")
    def _backbone_fits(self):
        kind, options = self.backbone.kind, self.backbone.options
        module_name, preset = PRESETS.get(kind, (kind, {}))
        module = module_of("backbone.kind", "mot_gen.backbone", module_name, PRESETS)
        untied = any(map(options.get, ("towers", "untied")))
        tied = "backbone: kind 'dense' unties nothing; drop towers and untied, or say kind: mot"
        require(kind != "dense" or not untied, tied)
        config = built("backbone", member_of("backbone", module, "Config"), {**preset, **options})
        from mot_gen.sequence import Modality  # needs torch, which a recipe with a wrong field need not wait for

        modalities = [Modality(name, vocab_size=1) for name in self.tokenizers]
        towers = config.tower_table(modalities)[0] if hasattr(config, "tower_table") else list(self.tokenizers)
        _all_known("backbone.frozen", self.backbone.frozen, towers)
        if self.backbone.lora:
            _all_known("backbone.lora.towers", self.backbone.lora.towers, towers)
            begun = "backbone.lora: adapts a model that was trained; give its folder by training.init"
            require(self.training.init, begun)
            others = [*self.backbone.frozen, *self.backbone.lr_factors]
            require(not others, "backbone.lora: only adapters learn; leave out frozen and lr_factors")
        _all_known("backbone.positions", self.backbone.positions, self.tokenizers)
        _all_known("backbone.lr_factors", self.backbone.lr_factors, towers)
        for number, phase in enumerate(self.training.phases):
            _all_known(f"training.phases.{number}.frozen", phase.frozen, towers)
            _all_known(f"training.phases.{number}.lr_factors", phase.lr_factors, towers)
        return self

    def save(self, path: str | Path) -> None:
        """Writes the resolved recipe, every field of it; `load_recipe(path)` gives an equal one."""
        text = yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True, width=120)
        write_text(path, text)


def _all_known(field: str, names, allowed) -> None:
    for name in names:
        if name not in allowed:
            raise InputError(f"{field}: {name!r} is not known{nearest(name, allowed)}")


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
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise InputError(_one_line(error, recipe.name, [])) from None


def differences(before: Recipe, after: Recipe) -> list[str]:
    """`field: value -> value` for every field in which two recipes differ, as when a run is resumed with another."""
    return differing(plain(before), plain(after))


# ---------------------------------------------------------------- reading


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe: a YAML file, or the name of a shipped one; `overrides` are `KEY=VALUE`, values in YAML.

    Raises InputError, one line, for a file that cannot be read and for every field that is unknown or wrong.
    """
    source = str(name_or_path)
    return recipe_of(parse_yaml(read_recipe(name_or_path), source), source, overrides)


def recipe_of(raw: Any, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a mapping states, as `load_recipe`; `source` is what messages call it. `raw` is changed."""
    require(isinstance(raw, dict), f"{source}: {NO_MAPPING}, got {type(raw).__name__}")
    overridden = [override(raw, text) for text in overrides]
    _check_emptied(raw, overridden)
    _take_auto(raw)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise InputError(_one_line(error, source, overridden)) from None


def _check_emptied(raw: dict, overridden: Sequence[str]) -> None:
    """Who asks for no records at all is not given the recipe's usual data without a word."""
    emptied = "data.records" in overridden and field_of(raw, "data.records") == []
    require(
        not emptied or "data.source" in overridden,
        "override data.records: names no file; give FILE, or data.source=NAME for data that come with the package",
    )


def _take_auto(raw: dict) -> None:
    """Take the values `auto` out of a mapping, and list their fields under `auto`; defaults hold their places."""
    fields = [field for field in AUTO_FIELDS if field_of(raw, field) == AUTO]
    for field in fields:
        take_field(raw, field)
    if fields:
        raw["auto"] = [*raw.get("auto", []), *fields]


# ---------------------------------------------------------------- errors


def _one_line(error: ValidationError, source: str, overridden: list[str]) -> str:
    """The first of a validation's errors, behind the file or the override that it comes from."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error":
        message = f"{field}: {first['ctx']['error']}".removeprefix(": ")
    else:
        message = f"{field} {complaint(first, _neighbours(first['loc']))}"
    named = re.split(r"[:\s]", message, maxsplit=1)[0]
    return (
        f"override {message}"
        if any(f"{named}.".startswith(f"{key}.") for key in overridden)
        else f"{source}: {message}"
    )


def _neighbours(location: tuple) -> Iterable[str]:
    """The keys that may stand beside the one at `location`."""
    section = Recipe
    for name in location[:-1]:
        field = getattr(section, "model_fields", {}).get(name)  # none for the number of an item or the key of a mapping
        if field:
            section = (get_args(field.annotation) or [field.annotation])[-1]
    return getattr(section, "model_fields", ())
