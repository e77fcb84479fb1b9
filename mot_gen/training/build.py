"""From a recipe to the things it names: load_splits, build_tokenizers, outline_model, initial_values, build_model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mot_gen import checkpoints, objectives
from mot_gen.backbone import lora
from mot_gen.backbone.routing import is_adapter
from mot_gen.data.records import Pair, Splits, sample_key
from mot_gen.errors import InputError
from mot_gen.files.manifest import refuse_pickle
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.recipes.implementations import check_options, locate
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Tokenizer
from mot_gen.sequence import Modality
from mot_gen.training.parallel import allocate, fill
from mot_gen.training.trained_tokenizers import trained, untrained

TOKENIZERS = "tokenizers"  # the folder of a run that holds the tokenizers that it trained


def load_splits(recipe: Recipe) -> Splits:
    """The training and held-out samples of the recipe's source."""
    return locate("mot_gen.datasets", recipe.data.source).load(recipe.data)


def build_tokenizers(recipe: Recipe, splits: Splits, folder: Path | None = None) -> dict[str, object]:
    """Modality name -> tokenizer: loaded where the recipe gives a path, trained where it has a section `train`, else
    made from its options; text is trained on the captions and texts of the training split, once: a run that goes on has
    the vocabulary that it began with, also where its data grew.

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
        return cls.from_pretrained(checkpoints.located(section.path))
    if section.kind == "text":
        return _text_tokenizer(cls, name, section.options, splits, folder)
    check_options(field, cls, section.options)
    return cls(**section.options)


def _text_tokenizer(cls: type, name: str, options: Mapping, splits: Splits, folder: Path | None):
    kept = folder and folder / TOKENIZERS / name
    if kept and (folder / "checkpoints").exists() and kept.exists():
        return cls.from_pretrained(kept)
    options = {"texts": _texts(splits), "vocab_size": 8192, **options}
    check_options(f"tokenizers.{name}", cls.train, options)
    tokenizer = cls.train(**options)
    if kept:
        tokenizer.save_pretrained(kept)
    return tokenizer


def _texts(splits: Splits) -> list[str]:
    found: dict[str, None] = {}  # in order of appearance, each once
    for sample in splits.train:
        texts = sample.captions if isinstance(sample, Pair) else [p.value for p in sample.parts if p.kind == "text"]
        found |= dict.fromkeys(texts)
    if not found:
        raise InputError("data: no sample has any text to train the text tokenizer on; give captions")
    return list(found)


def outline_model(recipe: Recipe, tokenizers: Mapping[str, object]) -> MultimodalModel:
    """The model of a recipe on the meta device: every shape, no value, no memory."""
    backbone = recipe.backbone
    config = MultimodalConfig(
        modalities=[_modality(name, tokenizer, recipe) for name, tokenizer in tokenizers.items()],
        backbone={"kind": backbone.kind, **backbone.options},
        objectives={name: {"kind": o.kind, **o.options} for name, o in recipe.objectives.items()},
        patch_layers=backbone.patch_layers,
        context=recipe.training.row_length,
    )
    with torch.device("meta"), _NoInitialValues():
        model = MultimodalModel(**config.to_dict())
        if backbone.lora:
            lora.add(model, **backbone.lora.model_dump())
    return model


class _NoInitialValues(TorchFunctionMode):
    """Leaves out the functions of `torch.nn.init`. On the meta device they change nothing, but torch imports its
    compiler to run them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", None) != "torch.nn.init":
            return func(*args, **(kwargs or {}))
        return args[0] if args else (kwargs or {})["tensor"]


def initial_values(recipe: Recipe, outline: MultimodalModel) -> Iterator[tuple[str, Tensor]]:
    """Name and initial value of each parameter of a model on the meta device, one after the other: `training.init`'s
    weights, or drawn by `training.seed`.

    What is drawn is a function of seed and name alone: every process makes the same values, however many share them
    out, and none holds more than one whole.
    """
    for name, empty in outline.named_parameters():
        if is_adapter(name):
            torch.manual_seed(sample_key(f"init/{recipe.training.seed}/{name}") >> 1)
            yield name, lora.initial_value(name, empty.shape)
    begun: set[str] = set()
    if recipe.training.init:
        for name, value in _values_of(Path(checkpoints.located(recipe.training.init)), outline):
            begun.add(name)
            yield name, value
    for name, empty in list(outline.named_parameters()):
        if name in begun or (recipe.training.init and not _is_of_step(name)):
            continue
        path, _, leaf = name.rpartition(".")
        owner = outline.get_submodule(path)
        setattr(owner, leaf, nn.Parameter(torch.empty(empty.shape, device="cpu")))
        torch.manual_seed(sample_key(f"init/{recipe.training.seed}/{name}") >> 1)
        (outline.backbone if name.startswith("backbone.") else outline).init_weights()
        yield name, getattr(owner, leaf).detach()
        setattr(owner, leaf, empty)


def _is_of_step(name: str) -> bool:
    """Whether a parameter embeds the sampler's step, which a flow model has not: it may begin to learn steps."""
    return name.startswith("patch_layers.") and ".step." in name


def _values_of(folder: Path, outline: MultimodalModel) -> Iterator[tuple[str, Tensor]]:
    """The weights of a model of the same make, in a pipeline's folder, a run's, or its `model` part's."""
    places = (folder / "model" / "model", folder / "model", folder)
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None:
        raise InputError(f"training.init: {folder} holds no model; give the folder of a run, or of its model")
    refuse_pickle(found)
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "pt")) for path in sorted(found.glob("*.safetensors"))]
        weights = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        wanted = {
            name: own
            for name, own in outline.named_parameters()
            if not is_adapter(name) and (name in weights or not _is_of_step(name))
        }
        for name, own in wanted.items():
            shape = tuple(weights[name].get_slice(name).get_shape()) if name in weights else "not there"
            if shape != tuple(own.shape):
                raise InputError(
                    f"training.init: {name} of {folder} is {shape}, this recipe's {tuple(own.shape)}; its backbone and "
                    "tokenizers must be those of that model"
                )
        if foreign := weights.keys() - wanted.keys():
            raise InputError(f"training.init: {folder} has {min(foreign)}, which this recipe's model has not")
        for name, file in weights.items():
            yield name, file.get_tensor(name)


def build_model(recipe: Recipe, tokenizers: Mapping[str, object]) -> MultimodalModel:
    """The model of a recipe, with its initial values, on the CPU."""
    model = allocate(outline_model(recipe, tokenizers), torch.device("cpu"))
    fill(model, initial_values(recipe, outline_model(recipe, tokenizers)))
    return model


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
