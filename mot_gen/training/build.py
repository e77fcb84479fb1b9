"""From a recipe to the things it names: load_splits, check_parts, build_tokenizers, outline_model, initial_values,
build_model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mot_gen import checkpoints, objectives
from mot_gen.backbone import lora
from mot_gen.backbone.routing import is_adapter
from mot_gen.data.records import Pair, Splits, sample_key
from mot_gen.data.rehearsal import rehearsed
from mot_gen.errors import InputError
from mot_gen.model import MultimodalConfig, MultimodalModel, outlining
from mot_gen.recipes.implementations import check_options, locate
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Data, Tokenizer
from mot_gen.sequence import Modality
from mot_gen.training.checkpoint_folders import steps_of
from mot_gen.training.origin import Origin
from mot_gen.training.parallel import allocate, fill
from mot_gen.training.trained_tokenizers import INPUTS, trained, untrained

T = TypeVar("T")
TOKENIZERS = "tokenizers"  # the folder of a run that holds the tokenizers that it trained


def load_splits(recipe: Recipe) -> Splits:
    """The training and held-out samples of the recipe's source, old data beside the new where it is rehearsed."""
    splits = locate("mot_gen.datasets", recipe.data.source).load(recipe.data)
    rehearsal = recipe.data.rehearsal
    if rehearsal is None:
        return splits
    old = Data(
        source=rehearsal.source,
        records=rehearsal.records,
        options=rehearsal.options,
        outside_media=recipe.data.outside_media,
    )
    samples = locate("mot_gen.datasets", old.source).load(old).train
    return rehearsed(splits, samples, rehearsal.share, f"rehearsal of {old.source}")


def build_tokenizers(
    recipe: Recipe, splits: Splits, folder: Path | None = None, origin: Origin | None = None
) -> dict[str, Any]:
    """Modality name -> tokenizer.

    It is loaded where the recipe gives a path, the origin's where training begins with a checkpoint, trained where the
    recipe has a section `train`, else made from its options. Text is trained on the captions and texts of the training
    split, once: a run that goes on has the vocabulary that it began with, also where its data grew.

    folder: of the run; without one, nothing is written, and what would be trained is given untrained.
    """
    begun = folder is not None and bool(steps_of(folder))
    made = {}
    for name, section in recipe.tokenizers.items():
        kept = folder / TOKENIZERS / name if folder else None
        made[name] = _tokenizer(_Asked(name, section, splits, kept, begun), origin)
    return made


@dataclass(frozen=True)
class _Asked:
    """A tokenizer that a recipe asks for. kept: its folder in the run's. begun: whether the run has a checkpoint."""

    name: str
    section: Tokenizer
    splits: Splits
    kept: Path | None
    begun: bool

    @property
    def field(self) -> str:
        return f"tokenizers.{self.name}"

    @property
    def kind(self) -> type[Any]:
        """The class of the section's kind."""
        module = locate("mot_gen.tokenizers", self.section.kind)
        own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
        (found,) = [c for c in own if hasattr(c, "modality")]
        return found

    @property
    def learns(self) -> bool:
        """Whether making it is training: a vocabulary, or what has a section `train`."""
        return self.section.train is not None or self.section.kind == "text"


def _tokenizer(asked: _Asked, origin: Origin | None) -> Any:
    if asked.begun and not asked.section.path and _was_brought(asked.kept):
        return asked.kind.from_pretrained(asked.kept)
    own = origin.tokenizer(asked.name) if origin else None
    if origin is not None and own is not None:
        return _brought(asked, origin, own)
    if origin is not None and asked.learns and not asked.section.path:
        origin.refuse_new(asked.name)
    made = _made(asked)
    if origin is not None:
        origin.refuse_unbound(asked.name, made)
    return made


def _was_brought(kept: Path | None) -> bool:
    """Whether a run's folder has a finished tokenizer that it did not train: a vocabulary, or an origin's."""
    return kept is not None and kept.exists() and not (kept / INPUTS).exists()


def _brought(asked: _Asked, origin: Origin, own: Any) -> Any:
    """The origin's tokenizer, written into the run's folder, so that the run does without the origin from now on."""
    origin.refuse_other(asked.name, asked.section, own, _asked_for(asked))
    if asked.kept is not None and not asked.kept.exists():
        own.save_pretrained(asked.kept)
    return own


def _asked_for(asked: _Asked) -> Any | None:
    """What the section describes, as far as that can be had without training; None for a vocabulary."""
    if asked.section.path:
        return _made(asked)
    if asked.section.kind == "text":
        return None
    return untrained(asked.section) if asked.section.train is not None else _made(asked)


def _made(asked: _Asked) -> Any:
    section = asked.section
    if section.train is not None:
        return trained(asked.name, section, asked.splits, asked.kept) if asked.kept else untrained(section)
    if section.path:
        return asked.kind.from_pretrained(checkpoints.located(section.path))
    if section.kind == "text":
        return _trained_text(asked)
    check_options(asked.field, asked.kind, section.options)
    return _named(asked.field, lambda: asked.kind(**section.options))


def _trained_text(asked: _Asked) -> Any:
    options = {"texts": _texts(asked.splits), "vocab_size": 8192, **asked.section.options}
    check_options(asked.field, asked.kind.train, options)
    tokenizer = _named(asked.field, lambda: asked.kind.train(**options))
    if asked.kept:
        tokenizer.save_pretrained(asked.kept)
    return tokenizer


def _named(field: str, make: Callable[[], T]) -> T:
    """What `make` gives; its InputError begins with the dotted field of the recipe."""
    try:
        return make()
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith("tokenizers.") else f"{field}.{message}") from None


def check_parts(recipe: Recipe, origin: Origin | None) -> None:
    """InputError for tokenizers that cannot be made, or do not fit the model, before anything is read or written."""
    made = {}
    for name, section in recipe.tokenizers.items():
        asked = _Asked(name, section, Splits([], []), None, False)
        if section.kind == "text" and not section.path and origin is None:
            made[name] = _bytes(asked)
        else:
            made[name] = _tokenizer(asked, origin)
    outline_model(recipe, made)


def _bytes(asked: _Asked) -> Any:
    """A text tokenizer that has learned nothing yet."""
    options = {"vocab_size": 8192, **asked.section.options, "texts": []}
    check_options(asked.field, asked.kind.train, options)
    return _named(asked.field, lambda: asked.kind.train(**options))


def _texts(splits: Splits) -> list[str]:
    found: dict[str, None] = {}  # in order of appearance, each once
    for sample in splits.train:
        texts = sample.captions if isinstance(sample, Pair) else [p.value for p in sample.parts if p.kind == "text"]
        found |= dict.fromkeys(texts)
    if not len(splits.train) and len(splits.held_out):
        raise InputError(
            f"data.held_out: all {len(splits.held_out)} samples are held out, so none is left to train on; give "
            "data.held_out=0, or more samples"
        )
    if not found:
        raise InputError("data: no sample has any text to train the text tokenizer on; give captions")
    return list(found)


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
                lora.add(model, **backbone.lora.model_dump())
    except (OverflowError, RuntimeError, MemoryError, TypeError) as error:
        # A TypeError is torch's own when a size is beyond 64 bits; any other is a fault of ours.
        if isinstance(error, TypeError) and "Overflow" not in str(error):
            raise
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"backbone: no model of these sizes can be made ({reason}); lower dim, ffn_dim or layers"
        ) from error
    return model


def initial_values(recipe: Recipe, outline: MultimodalModel, origin: Origin | None) -> Iterator[tuple[str, Tensor]]:
    """Name and initial value of each parameter of a model on the meta device, one after the other: the origin's
    weights, or drawn by `training.seed`.

    What is drawn is a function of seed and name alone: every process makes the same values, however many share them
    out, and none holds more than one whole.
    """
    for name, empty in outline.named_parameters():
        if is_adapter(name):
            torch.manual_seed(sample_key(f"init/{recipe.training.seed}/{name}") >> 1)
            yield name, lora.initial_value(name, empty.shape)
    begun: set[str] = set()
    if origin is not None:
        for name, value in origin.values(outline):
            begun.add(name)
            yield name, value
    for name, empty in list(outline.named_parameters()):
        if name in begun or is_adapter(name):
            continue
        path, _, leaf = name.rpartition(".")
        owner = outline.get_submodule(path)
        setattr(owner, leaf, nn.Parameter(torch.empty(empty.shape, device="cpu")))
        torch.manual_seed(sample_key(f"init/{recipe.training.seed}/{name}") >> 1)
        (outline.backbone if name.startswith("backbone.") else outline).init_weights()
        yield name, getattr(owner, leaf).detach()
        setattr(owner, leaf, empty)


def build_model(recipe: Recipe, tokenizers: Mapping[str, Any]) -> MultimodalModel:
    """The model of a recipe, with its initial values, on the CPU."""
    outline = outline_model(recipe, tokenizers)
    model = allocate(copy.deepcopy(outline), torch.device("cpu"))
    fill(model, initial_values(recipe, outline, Origin.of(recipe)))
    return model


def _modality(name: str, tokenizer, recipe: Recipe) -> Modality:
    """The tokenizer's modality under the recipe's objective; continuous tokens need one that denoises."""
    modality, kind = tokenizer.modality, recipe.objectives[name].kind
    if modality.name != name:
        raise InputError(f"tokenizers.{name}: this tokenizer calls its modality {modality.name!r}; name the section so")
    objective = objectives.load(kind, recipe.objectives[name].options)
    if modality.discrete != hasattr(objective, "corrupt"):
        position = recipe.backbone.positions.get(name, modality.position)
        whole, block = modality.bidirectional, getattr(objective, "block", 0)
        if modality.discrete:
            whole = getattr(objective, "bidirectional", False) and not block
        if modality.discrete and whole and not hasattr(tokenizer, "grids"):
            raise InputError(
                f"objectives.{name}.kind: {kind} needs spans of a known size; give next_token, or say "
                f"objectives.{name}.block, the tokens that are drawn together"
            )
        scales = modality.scales if getattr(objective, "by_scales", False) else ()
        if getattr(objective, "by_scales", False) and not scales:
            raise InputError(
                f"objectives.{name}.kind: {kind} needs a tokenizer of several scales, such as image_scales"
            )
        return replace(
            modality, objective=kind, position=position, bidirectional=whole, scales=scales, block_size=block
        )
    fitting = "next_token, masked or next_scale" if modality.discrete else "flow, shortcut, mean_flow or diffusion"
    sort = "discrete" if modality.discrete else "continuous"
    raise InputError(f"objectives.{name}.kind: {kind} does not fit the {sort} tokens of {name}; give {fitting}")
