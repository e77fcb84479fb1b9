"""Whether a recipe's implementations are there and take its options: check_named, which imports none of them, and
check_built, which builds what a recipe describes, and takes seconds since that needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from mot_gen.backbone import PRESETS
from mot_gen.errors import InputError, nearest, require
from mot_gen.recipes.implementations import (
    build,
    check_stated,
    check_trainable,
    check_trainer,
    member_of,
    module_of,
    trainer_name,
)
from mot_gen.recipes.sections import Backbone, Data, Objective, Tokenizer, Training
from mot_gen.recipes.signatures import stated_types, tokenizer_in

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
    check_trainer(field, tokenizer)
    if tokenizer.path:
        return
    if tokenizer.train is not None:
        trainer = trainer_name(tokenizer.kind)
        check_stated(field, trainer, "untrained", tokenizer.options)
        check_stated(f"{field}.train", trainer, "Training", tokenizer.train)
        return
    name = tokenizer_in(module)
    if name:
        maker = f"{name}.train" if tokenizer.kind == "text" else name
        check_stated(field, module, maker, tokenizer.options)


def _check_backbone(recipe: Sections) -> None:
    """InputError for what is wrong in the backbone's section, apart from what it says of towers."""
    section, options = recipe.backbone, recipe.backbone.options
    module, _ = _module_and_preset(section)
    _refuse_of_others(section.kind, module, options)
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


def _refuse_of_others(kind: str, module: str, options: Mapping[str, Any]) -> None:
    """InputError for an option that the usual backbone has and this one has not, as where a recipe's kind alone is
    exchanged."""
    own = stated_types(module, "Config")
    usual = stated_types("mot_gen.backbone.transformer", "Config") or {}
    if own is None:
        return
    for name in options:
        of_others = name in usual and name not in own
        whole = f"say what it has instead: 'backbone={{kind: {kind}, ...}}'; it has {', '.join(own)}"
        require(not of_others, f"backbone.{name} is no option of {kind}; {whole}")


def _module_and_preset(section: Backbone) -> tuple[str, dict[str, Any]]:
    """The module of a backbone, and the options that its kind stands for."""
    kind, preset = PRESETS.get(section.kind, (section.kind, {}))
    return module_of("backbone.kind", "mot_gen.backbone", kind, PRESETS), preset


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
        build(field, member_of(field, module, "Objective"), objective.options)
    _check_patch_layers(recipe)
    _check_towers(recipe)


def _check_patch_layers(recipe: Sections) -> None:
    from mot_gen.backbone.modality_layers import patch_layers

    for name, options in recipe.backbone.patch_layers.items():
        patch_layers.check_stated(f"backbone.patch_layers.{name}", options)


def _check_towers(recipe: Sections) -> None:
    from mot_gen.sequence import Modality

    section = recipe.backbone
    module, preset = _module_and_preset(section)
    config = build("backbone", member_of("backbone", module, "Config"), {**preset, **section.options})
    towers = list(recipe.tokenizers)
    if hasattr(config, "tower_table"):
        towers, _ = config.tower_table([Modality(name, vocab_size=1) for name in recipe.tokenizers])
    all_known("backbone.frozen", section.frozen, towers)
    all_known("backbone.lr_factors", section.lr_factors, towers)
    if section.lora:
        all_known("backbone.lora.towers", section.lora.towers, towers)
    for number, phase in enumerate(recipe.training.phases):
        all_known(f"training.phases.{number}.frozen", phase.frozen, towers)
        all_known(f"training.phases.{number}.lr_factors", phase.lr_factors, towers)
