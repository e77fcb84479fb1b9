"""What all growths use: Growth, their base; read, which finds one by name; rebuild, copy_parameters, shapes_of,
blocks_of, require_gated, check_number; and grow_folder, which grows a folder into another.

Shapes: F feed-forward width.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import torch
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from mot_gen import checkpoints
from mot_gen.backbone import stated_options
from mot_gen.backbone.feed_forwards import gated
from mot_gen.checkpoints.folders import refuse_foreign
from mot_gen.errors import InputError, nearest, require
from mot_gen.files import manifest
from mot_gen.files.atomic import writing_folder
from mot_gen.growth import check_name
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.recipes.recipe import read_mapping

# Fields of a recipe's section `backbone` that do not describe blocks. Adapters (lora) are trained alone, so not kept.
KEPT = ("frozen", "lr_factors", "patch_layers", "token_layers", "embedding_scale", "positions")


class Growth:
    """Base of all growths; `mot_gen.growth` says what they are. needs_other: whether a growth joins two models."""

    needs_other: ClassVar[bool] = False

    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        """The grown model, in eval mode; `model` stays as it is. other: the second, where `needs_other`. InputError for
        a model that this growth does not fit."""
        raise NotImplementedError


def read(name: str, settings: Sequence[str]) -> Growth:
    """The growth of this name with its options, OPTION=VALUE each. InputError for an unknown name, option or value."""
    check_name(name)
    cls = importlib.import_module(f"mot_gen.growth.{name}").Growth
    types = get_type_hints(cls)
    known = [field.name for field in fields(cls)]
    options = {}
    for text in settings:
        option, _, value = text.partition("=")
        if option not in known:
            raise InputError(f"{text}: {name} has no option {option!r}" + nearest(option, known))
        try:
            options[option] = _value_of(types[option], value)
        except (ValidationError, yaml.YAMLError):
            raise InputError(f"{text}: {name} takes no such value for {option}") from None
    return cls(**options)


def _value_of(kind: Any, text: str) -> Any:
    """The value of this type that a text states as YAML."""
    return TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(yaml.safe_load(text))


def rebuild(model: MultimodalModel, **backbone: Any) -> MultimodalModel:
    """A new model with the config of `model`, except for these options of its backbone; an option of None is left out.

    It takes the weights of `model` that have the same name and shape; all others have their initial values.
    """
    config: dict[str, Any] = dict(model.config)
    given = {field.name: config[field.name] for field in fields(MultimodalConfig) if field.name in config}
    stated = {**stated_options(config["backbone"]), **backbone}
    given["backbone"] = {name: value for name, value in stated.items() if value is not None}
    made = MultimodalModel(**given)
    dtype = next(model.parameters()).dtype
    if dtype != next(made.parameters()).dtype:
        made.to(dtype)
    copy_parameters(made, model)
    return made.eval()


@torch.no_grad()
def copy_parameters(into: nn.Module, source: nn.Module) -> None:
    """Copy every parameter that both have, by name and shape."""
    given = dict(source.named_parameters())
    for name, parameter in into.named_parameters():
        value = given.get(name)
        if value is not None and value.shape == parameter.shape:
            parameter.copy_(value)


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    """The shape of each parameter, by its name."""
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def blocks_of(model: MultimodalModel) -> list[Any]:
    """The layers of a transformer; InputError for another backbone."""
    if not hasattr(model.backbone, "blocks") or not hasattr(model.backbone.config, "roles"):
        raise InputError("--grow: this backbone has no blocks of parts; give a transformer's checkpoint")
    return list(model.backbone.blocks)


def require_gated(model: MultimodalModel, growth: str, cut: bool = False) -> int:
    """F of a model whose layers all have the usual feed-forward: gated, of one width, without experts. Else InputError.

    cut: whether feed-forwards are to be cut or copied, so that the activation must be a function of each channel alone.
    """
    for block in blocks_of(model):
        part = block.parts.feed_forward
        usual = type(part) is gated.FeedForward and not model.backbone.config.widths
        require(usual, f"--grow {growth}: is for gated feed-forwards of one width; this model has others")
        divides = not cut or block.ffn.learned is None
        require(divides, f"--grow {growth}: is for activations without parameters, such as silu; this model's has")
    return model.backbone.config.ffn_dim


def check_number(growth: Growth, other: str | Path | None) -> None:
    """InputError where a growth of two models is given one, or one of one is given two."""
    name = type(growth).__module__.rpartition(".")[2]
    if growth.needs_other:
        require(other is not None, f"--grow {name}: is of two models; give the second --with")
    else:
        require(other is None, f"--grow {name}: is of one model; drop --with")


def grow_folder(source: str | Path, out: Path, growth: Growth, other: str | Path | None) -> MultimodalModel:
    """Write a pipeline's folder `out`: a copy of `source` with the grown model. Nothing is left of it after an error.

    If the source is a run, `out/recipe.yaml` goes on training the grown model.
    """
    check_number(growth, other)
    folder = checkpoints.find(source)
    refuse_foreign(folder)
    model = MultimodalModel.from_pretrained(folder)
    second = None if other is None else MultimodalModel.from_pretrained(other)
    grown = growth.grow(model, second)
    with writing_folder(out) as made:
        shutil.copytree(folder, made, ignore=shutil.ignore_patterns(manifest.NAME, "recipe.yaml"), dirs_exist_ok=True)
        shutil.rmtree(made / "model")
        grown.save_pretrained(made / "model")
        recipe = _recipe(Path(source), out, grown)
        if recipe is not None:
            (made / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, width=120), encoding="utf-8")
        manifest.write(made)
    return grown


def _recipe(source: Path, out: Path, grown: MultimodalModel) -> Mapping[str, Any] | None:
    """The run's recipe with the grown backbone, begun from `out`; None where the source is no run."""
    path = source / "recipe.yaml"
    if not path.is_file():
        return None
    recipe = read_mapping(path)
    section = recipe.get("backbone") or {}
    kept = {name: section[name] for name in KEPT if name in section}
    recipe["backbone"] = {**stated_options(dict(grown.config)["backbone"]), **kept}
    recipe["training"] = {**(recipe.get("training") or {}), "init": str(out.resolve())}
    return recipe
