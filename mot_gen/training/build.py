"""From a recipe to the things it names: load_splits, build_tokenizers, check_parts, outline_model, initial_values,
build_model. How tokenizers are made is in tokenizer_building.py."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mot_gen import objectives
from mot_gen.backbone import lora
from mot_gen.backbone.outline import initial_value
from mot_gen.backbone.routing import is_adapter
from mot_gen.data import records
from mot_gen.data.records import Splits, sample_key
from mot_gen.data.rehearsal import with_rehearsal
from mot_gen.errors import InputError, expect, require
from mot_gen.model import MultimodalConfig, MultimodalModel, outlining
from mot_gen.recipes.implementations import locate
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Data
from mot_gen.sequence import Modality
from mot_gen.training.origin import Origin
from mot_gen.training.parallel import allocate, fill
from mot_gen.training.parameter_groups import freeze
from mot_gen.training.tokenizer_building import TOKENIZERS, build_tokenizers, refuse_unfit, untrained_tokenizers

__all__ = [
    "TOKENIZERS",
    "build_model",
    "build_tokenizers",
    "check_parts",
    "initial_values",
    "load_splits",
    "outline_model",
]


def load_splits(recipe: Recipe) -> Splits:
    """The training and held-out samples of the recipe's source, old data beside the new where it is rehearsed."""
    splits = _load("data.source", recipe.data)
    rehearsal = recipe.data.rehearsal
    if rehearsal is None:
        return splits
    old = Data(
        source=rehearsal.source,
        records=rehearsal.records,
        options=rehearsal.options,
        outside_media=recipe.data.outside_media,
    )
    samples = _load("data.rehearsal.source", old).train
    return with_rehearsal(splits, samples, rehearsal.share, f"rehearsal of {old.source}")


def _load(field: str, data: Data) -> Splits:
    """What the source's `load` returns; InputError where a user's own returns something else."""
    load = locate("mot_gen.datasets", data.source).load
    what = f"{field}: load of {data.source}"
    try:
        inspect.signature(load).bind(data)
    except TypeError as error:
        raise InputError(f"{what} must take one argument, the recipe's section data: {error}") from None
    splits = load(data)
    expect(isinstance(splits, Splits), f"{what} must return mot_gen.data.records.Splits", splits)
    for samples in (splits.train, splits.held_out):
        listed = hasattr(samples, "__len__") and hasattr(samples, "__getitem__")
        expect(listed, f"{what}: samples must be a list, or have __len__ and __getitem__", samples)
        first = records.outline(samples, 0) if len(samples) else None  # whose picture need not be read
        known = first is None or hasattr(first, "arrange")
        expect(known, f"{what}: a sample must be a Pair or a Document of mot_gen.data.records", first)
    return splits


def check_parts(recipe: Recipe, origin: Origin | None) -> None:
    """InputError for tokenizers that cannot be made, or do not fit the model, before anything is read or written."""
    outline_model(recipe, untrained_tokenizers(recipe, origin))


def outline_model(recipe: Recipe, tokenizers: Mapping[str, Any]) -> MultimodalModel:
    """The model of a recipe on the meta device: every shape, no value, no memory."""
    backbone = recipe.backbone
    config = MultimodalConfig(
        modalities=[_modality(name, tokenizer, recipe) for name, tokenizer in tokenizers.items()],
        backbone={"kind": backbone.kind, **backbone.options},
        objectives={name: {"kind": o.kind, **o.options} for name, o in recipe.objectives.items()},
        patch_layers=backbone.patch_layers,
        token_layers=backbone.token_layers,
        embedding_scale=backbone.embedding_scale,
        context=recipe.training.row_length,
    )
    try:
        with outlining():
            model = MultimodalModel(**config.to_dict())
            if backbone.lora:
                lora.add(model, **backbone.lora.model_dump(), first=recipe.training.frozen_layers)
    except (OverflowError, RuntimeError, MemoryError, TypeError) as error:
        if not _is_of_sizes(error):
            raise
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"backbone: no model of these sizes can be made ({reason}); lower dim, ffn_dim or layers"
        ) from error
    freeze(model, recipe.training)
    return model


def _is_of_sizes(error: Exception) -> bool:
    """Whether torch refuses the sizes that a recipe asks for. A TypeError is torch's own when a size is beyond 64 bits;
    any other is a fault of ours."""
    return not isinstance(error, TypeError) or "Overflow" in str(error)


def initial_values(recipe: Recipe, outline: MultimodalModel, origin: Origin | None) -> Iterator[tuple[str, Tensor]]:
    """Name and initial value of each parameter of a model on the meta device, one after the other: the origin's
    weights, or drawn by `training.seed`.

    What is drawn is a function of seed and name alone: every process makes the same values, however many share them
    out, and none holds more than one whole.
    """
    seed = recipe.training.seed
    for name, empty in outline.named_parameters():
        if is_adapter(name):
            _seed(seed, name)
            yield name, lora.initial_value(name, empty.shape)
    begun: set[str] = set()
    if origin is not None:
        for name, value in origin.values(outline):
            begun.add(name)
            yield name, value
    for name, _ in list(outline.named_parameters()):
        if name not in begun and not is_adapter(name):
            _seed(seed, name)
            yield name, initial_value(outline, name)


def _seed(seed: int, name: str) -> None:
    """Let torch draw what belongs to a parameter of this name."""
    torch.manual_seed(sample_key(f"init/{seed}/{name}") >> 1)


def build_model(recipe: Recipe, tokenizers: Mapping[str, Any]) -> MultimodalModel:
    """The model of a recipe, with its initial values, on the CPU."""
    outline = outline_model(recipe, tokenizers)
    model = allocate(copy.deepcopy(outline), torch.device("cpu"))
    fill(model, initial_values(recipe, outline, Origin.of(recipe)))
    return model


def _modality(name: str, tokenizer, recipe: Recipe) -> Modality:
    """The tokenizer's modality under the recipe's objective; continuous tokens need one that denoises."""
    modality, section = tokenizer.modality, recipe.objectives[name]
    if modality.name != name:
        raise InputError(f"tokenizers.{name}: this tokenizer calls its modality {modality.name!r}; name the section so")
    refuse_unfit(name, section, modality.discrete)
    objective = objectives.load(section.kind, section.options)
    block, bidirectional = getattr(objective, "block", 0), modality.bidirectional
    if modality.discrete:
        bidirectional = getattr(objective, "bidirectional", False) and not block
    if modality.discrete and bidirectional and not hasattr(tokenizer, "grids"):
        raise InputError(
            f"objectives.{name}.kind: {section.kind} needs spans of a known size; give next_token, or say "
            f"objectives.{name}.block, the tokens that are drawn together"
        )
    scales: Sequence[Sequence[int]] = ()
    if getattr(objective, "by_scales", False):
        remedy = "needs a tokenizer of several scales, such as image_scales"
        require(modality.scales, f"objectives.{name}.kind: {section.kind} {remedy}")
        scales = modality.scales
    return replace(
        modality,
        objective=section.kind,
        position=recipe.backbone.positions.get(name, modality.position),
        bidirectional=bidirectional,
        scales=scales,
        block_size=block,
    )
