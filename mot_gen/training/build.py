"""From a recipe to the things it names: load_splits, build_tokenizers, build_model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from mot_gen import objectives
from mot_gen.errors import InputError
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.sequence import Modality
from mot_gen.training.recipe import Recipe, Tokenizer, check_options, locate
from mot_gen.training.records import Pair, Splits
from mot_gen.training.trained_tokenizers import trained, untrained

TOKENIZERS = "tokenizers"  # the folder of a run that holds the tokenizers that it trained


def load_splits(recipe: Recipe) -> Splits:
    """The training and held-out samples of the recipe's source."""
    return locate("mot_gen.training", recipe.data.source).load(recipe.data)


def build_tokenizers(recipe: Recipe, splits: Splits, folder: Path | None = None) -> dict[str, object]:
    """Modality name -> tokenizer: loaded where the recipe gives a path, trained where it has a section `train`, else
    made from its options; text is trained on the captions and texts of the training split.

    folder: of the run; without one, nothing is written and what would be trained is given untrained.
    """
    return {name: _tokenizer(name, section, splits, folder) for name, section in recipe.tokenizers.items()}


def _tokenizer(name: str, section: Tokenizer, splits: Splits, folder: Path | None):
    if section.train is not None:
        return trained(name, section, splits, folder / TOKENIZERS / name) if folder else untrained(section)
    module, field = locate("mot_gen.tokenizers", section.kind), f"tokenizers.{name}"
    (cls,) = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and c.__module__ == module.__name__ and hasattr(c, "modality")
    ]
    if section.path:
        return cls.from_pretrained(section.path)
    make, options = cls, section.options
    if section.kind == "text":
        make, options = cls.train, {"texts": _texts(splits), "vocab_size": 8192, **options}
    check_options(field, make, options)
    return make(**options)


def _texts(splits: Splits) -> list[str]:
    found: dict[str, None] = {}  # in order of appearance, each once
    for sample in splits.train:
        texts = sample.captions if isinstance(sample, Pair) else [p.value for p in sample.parts if p.kind == "text"]
        found |= dict.fromkeys(texts)
    if not found:
        raise InputError("data: no sample has any text to train the text tokenizer on; give captions")
    return list(found)


def build_model(recipe: Recipe, tokenizers: Mapping[str, object]) -> MultimodalModel:
    """The model of a recipe, with `training.seed`'s initial values or `training.init`'s weights, on the CPU."""
    backbone = recipe.backbone
    config = MultimodalConfig(
        modalities=[_modality(name, tokenizer, recipe) for name, tokenizer in tokenizers.items()],
        backbone={"kind": backbone.kind, **backbone.options},
        objectives={name: {"kind": o.kind, **o.options} for name, o in recipe.objectives.items()},
        patch_layers=backbone.patch_layers,
        context=recipe.training.row_length,
    )
    torch.manual_seed(recipe.training.seed)
    model = MultimodalModel(**config.to_dict())
    if recipe.training.init:
        _begin_with(model, Path(recipe.training.init))
    return model


def _begin_with(model: MultimodalModel, folder: Path) -> None:
    """Takes over the weights of a model of the same make: a pipeline's folder, a run's, or its `model` part's."""
    places = (folder / "model" / "model", folder / "model", folder)
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None:
        raise InputError(f"training.init: {folder} holds no model; give the folder of a run, or of its model")
    weights = MultimodalModel.from_pretrained(found).state_dict()
    for name, own in model.state_dict().items():
        if name not in weights or weights[name].shape != own.shape:
            shape = tuple(weights[name].shape) if name in weights else "not there"
            raise InputError(
                f"training.init: {name} of {folder} is {shape}, this recipe's {tuple(own.shape)}; its backbone and "
                "tokenizers must be those of that model"
            )
    if foreign := weights.keys() - model.state_dict().keys():
        raise InputError(f"training.init: {folder} has {min(foreign)}, which this recipe's model has not")
    model.load_state_dict(weights)


def _modality(name: str, tokenizer, recipe: Recipe) -> Modality:
    """The tokenizer's modality under the recipe's objective; continuous tokens need one that denoises."""
    modality, kind = tokenizer.modality, recipe.objectives[name].kind
    if modality.name != name:
        raise InputError(f"tokenizers.{name}: this tokenizer calls its modality {modality.name!r}; name the section so")
    if modality.discrete != hasattr(objectives.load(kind), "corrupt"):
        position = recipe.backbone.positions.get(name, modality.position)
        return replace(modality, objective=kind, position=position)
    sort, fitting = ("discrete", "next_token") if modality.discrete else ("continuous", "flow or diffusion")
    raise InputError(f"objectives.{name}.kind: {kind} does not fit the {sort} tokens of {name}; give {fitting}")
