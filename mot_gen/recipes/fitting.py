"""Whether a recipe's implementations are there and take its options: check_named, which imports none of them, and
check_built, which builds what a recipe describes, and takes seconds since that needs torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mot_gen.backbone import PRESETS
from mot_gen.errors import InputError, nearest, require
from mot_gen.recipes.implementations import (
    built,
    check_stated,
    check_trainable,
    check_trainer,
    member_of,
    module_of,
    trainer_name,
)
from mot_gen.recipes.sections import Backbone, Data, Objective, Tokenizer, Training
from mot_gen.recipes.signatures import tokenizer_in

SOURCES = ("digits", "emoji_scenes", "openmoji", "reach", "records")


class Sections(Protocol):
    """What is asked of a recipe here."""

    data: Data
    tokenizers: dict[str, Tokenizer]
    backbone: Backbone
    objectives: dict[str, Objective]
    training: Training


def all_known(field: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    """InputError for the first name that is not among those allowed."""
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            raise InputError(f"{field}: {name!r} is not known{nearest(name, allowed)}")


# ---------------------------------------------------------------- without importing them


def check_named(recipe: Sections) -> None:
    """InputError for a kind that is not there, and for an option that its source says it does not take."""
    for name, objective in recipe.objectives.items():
        field = f"objectives.{name}"
        module = module_of(f"{field}.kind", "mot_gen.objectives", objective.kind)
        check_stated(field, module, "Objective", objective.options)
    for field, source in _sources(recipe):
        module_of(field, "mot_gen.datasets", source, SOURCES)
    for name, tokenizer in recipe.tokenizers.items():
        _check_tokenizer(f"tokenizers.{name}", tokenizer)
    _check_backbone(recipe)


def _sources(recipe: Sections) -> list[tuple[str, str]]:
    """Fields that name where data come from, and what they say."""
    fields = [("data.source", recipe.data.source)]
    if recipe.data.rehearsal:
        fields.append(("data.rehearsal.source", recipe.data.rehearsal.source))
    return fields


def _check_tokenizer(field: str, tokenizer: Tokenizer) -> None:
    module = module_of(f"{field}.kind", "mot_gen.tokenizers", tokenizer.kind)
    if tokenizer.path:
        check_trainer(field, tokenizer)
    elif tokenizer.train is not None:
        check_trainer(field, tokenizer)
        check_stated(field, trainer_name(tokenizer.kind), "untrained", tokenizer.options)
        check_stated(f"{field}.train", trainer_name(tokenizer.kind), "Training", tokenizer.train)
    else:
        name = tokenizer_in(module)
        way = f"{name}.train" if tokenizer.kind == "text" else name
        if name:
            check_stated(field, module, f"{way}", tokenizer.options)


def _check_backbone(recipe: Sections) -> None:
    """Of the backbone's section, what its towers have no part in."""
    section, options = recipe.backbone, recipe.backbone.options
    module, _ = PRESETS.get(section.kind, (section.kind, {}))
    module = module_of("backbone.kind", "mot_gen.backbone", module, PRESETS)
    check_stated("backbone", module, "Config", options)
    untied = any(map(options.get, ("towers", "untied")))
    tied = "backbone: kind 'dense' unties nothing; drop towers and untied, or say kind: mot"
    require(section.kind != "dense" or not untied, tied)
    all_known("backbone.positions", section.positions, recipe.tokenizers)
    if section.lora:
        begun = "backbone.lora: adapts a model that was trained; give its folder by training.init"
        require(recipe.training.init, begun)
        others = [*section.frozen, *section.lr_factors]
        require(not others, "backbone.lora: only adapters learn; leave out frozen and lr_factors")


# ---------------------------------------------------------------- by importing them


def check_built(recipe: Sections) -> None:
    """InputError for options that an implementation refuses, and for towers that the backbone has not."""
    for field, source in _sources(recipe):
        member_of(field, module_of(field, "mot_gen.datasets", source, SOURCES), "load")
    for name, tokenizer in recipe.tokenizers.items():
        check_trainable(f"tokenizers.{name}", tokenizer)
    for name, objective in recipe.objectives.items():
        field = f"objectives.{name}"
        module = module_of(f"{field}.kind", "mot_gen.objectives", objective.kind)
        built(field, member_of(field, module, "Objective"), objective.options)
    _check_patch_layers(recipe)
    _check_towers(recipe)


def _check_patch_layers(recipe: Sections) -> None:
    from mot_gen.backbone.modality_layers.patch_layers import check_stated

    for name, options in recipe.backbone.patch_layers.items():
        check_stated(f"backbone.patch_layers.{name}", options)


def _check_towers(recipe: Sections) -> None:
    from mot_gen.sequence import Modality

    section = recipe.backbone
    name, preset = PRESETS.get(section.kind, (section.kind, {}))
    module = module_of("backbone.kind", "mot_gen.backbone", name, PRESETS)
    config = built("backbone", member_of("backbone", module, "Config"), {**preset, **section.options})
    modalities = [Modality(name, vocab_size=1) for name in recipe.tokenizers]
    towers = config.tower_table(modalities)[0] if hasattr(config, "tower_table") else list(recipe.tokenizers)
    all_known("backbone.frozen", section.frozen, towers)
    all_known("backbone.lr_factors", section.lr_factors, towers)
    if section.lora:
        all_known("backbone.lora.towers", section.lora.towers, towers)
    for number, phase in enumerate(recipe.training.phases):
        all_known(f"training.phases.{number}.frozen", phase.frozen, towers)
        all_known(f"training.phases.{number}.lr_factors", phase.lr_factors, towers)
