"""The tokenizers that a recipe names: build_tokenizers, which trains those that learn; untrained_tokenizers;
check_objectives, whether objectives fit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mot_gen import checkpoints, objectives
from mot_gen.data.records import Splits, outline
from mot_gen.data.samples import texts_of
from mot_gen.errors import InputError, require
from mot_gen.files.hub import require_local
from mot_gen.recipes.implementations import check_options, locate
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Objective, Tokenizer
from mot_gen.training.checkpoint_folders import steps_of
from mot_gen.training.origin import Origin
from mot_gen.training.trained_tokenizers import INPUTS, trained_tokenizer, untrained_tokenizer
from mot_gen.training.world import device

T = TypeVar("T")
TOKENIZERS = "tokenizers"  # the folder of a run that holds the tokenizers that it trained


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
    if origin is not None:
        origin.refuse_fewer_ids(recipe.tokenizers)
    made = {}
    for name, section in recipe.tokenizers.items():
        kept = folder / TOKENIZERS / name if folder else None
        asked = _RequestedTokenizer(name, section, splits, kept, begun, recipe.training.device)
        made[name] = _tokenizer(asked, origin)
    return made


def untrained_tokenizers(recipe: Recipe, origin: Origin | None) -> dict[str, Any]:
    """The tokenizers as far as they are known before any data is read: none is trained, and a new text tokenizer knows
    bytes alone."""
    if origin is not None:
        origin.refuse_fewer_ids(recipe.tokenizers)
    made = {}
    for name, section in recipe.tokenizers.items():
        asked = _RequestedTokenizer(name, section, Splits([], []), kept=None, begun=False)
        if asked.way == "vocabulary" and origin is None:
            made[name] = _bytes(asked)
        else:
            made[name] = _tokenizer(asked, origin)
    return made


def check_objectives(recipe: Recipe) -> None:
    """InputError for an objective of the other kind of tokens, where a tokenizer's class states which it makes. Nothing
    is made."""
    for name, section in recipe.tokenizers.items():
        discrete = getattr(class_of(section.kind), "discrete", None)
        if discrete is not None:
            refuse_unfit(name, recipe.objectives[name], discrete)


def refuse_unfit(name: str, section: Objective, discrete: bool) -> None:
    """InputError for an objective that is not of the tokens of a modality: ids (`discrete`), or numbers."""
    if discrete == hasattr(objectives.load(section.kind, section.options), "corrupt"):
        sort, fitting = "continuous", "flow, shortcut, mean_flow or diffusion"
        if discrete:
            sort, fitting = "discrete", "next_token, masked or next_scale"
        what = f"{section.kind} does not fit the {sort} tokens of {name}; give {fitting}"
        raise InputError(f"objectives.{name}.kind: {what}")


def class_of(kind: str) -> type[Any]:
    """The class of a kind of tokenizers: the one in its module that has a `modality`."""
    module = locate("mot_gen.tokenizers", kind)
    classes = [each for each in vars(module).values() if isinstance(each, type)]
    own = [each for each in classes if each.__module__ == module.__name__]
    found = [each for each in own if any("modality" in vars(base) for base in each.__mro__)]
    names = ", ".join(each.__name__ for each in found) or "none"
    require(len(found) == 1, f"tokenizers: module {module.__name__} must have one class with a `modality`, has {names}")
    return found[0]


@dataclass(frozen=True)
class _RequestedTokenizer:
    """A tokenizer that a recipe asks for. kept: its folder in the run's. begun: whether the run has a checkpoint.
    device: `training.device`, where it is trained."""

    name: str
    section: Tokenizer
    splits: Splits
    kept: Path | None
    begun: bool
    device: str = "cpu"

    @property
    def field(self) -> str:
        return f"tokenizers.{self.name}"

    @property
    def kind(self) -> type[Any]:
        """The class of the section's kind."""
        return class_of(self.section.kind)

    @property
    def way(self) -> str:
        """How it is made, a name of WAYS."""
        if self.section.path:
            return "loaded"
        if self.section.train is not None:
            return "trained"
        if self.section.kind == "text":
            return "vocabulary"
        return "built"

    @property
    def learns(self) -> bool:
        """Whether making it is training."""
        return self.way in ("trained", "vocabulary")


def _tokenizer(asked: _RequestedTokenizer, origin: Origin | None) -> Any:
    if asked.begun and asked.way != "loaded" and _was_brought(asked.kept):
        return asked.kind.from_pretrained(asked.kept)
    if origin is None:
        return _make(asked)
    own = origin.tokenizer(asked.name)
    if own is not None:
        return _brought(asked, origin, own)
    if asked.learns:
        origin.refuse_new(asked.name)
    made = _make(asked)
    origin.refuse_unbound(asked.name, made)
    return made


def _was_brought(kept: Path | None) -> bool:
    """Whether a run's folder has a finished tokenizer that it did not train: a vocabulary, or an origin's."""
    return kept is not None and kept.exists() and not (kept / INPUTS).exists()


def _brought(asked: _RequestedTokenizer, origin: Origin, own: Any) -> Any:
    """The origin's tokenizer, written into the run's folder, so that the run does without the origin from now on."""
    origin.refuse_other(asked.name, asked.section, own, _asked_for(asked))
    if asked.kept is not None and not asked.kept.exists():
        own.save_pretrained(asked.kept)
    return own


def _asked_for(asked: _RequestedTokenizer) -> Any | None:
    """What the section describes, as far as that can be had without training; None for a vocabulary."""
    if asked.way == "vocabulary":
        return None
    if asked.way == "trained":
        return untrained_tokenizer(asked.section)
    return _make(asked)


def _make(asked: _RequestedTokenizer) -> Any:
    return WAYS[asked.way](asked)


def _load(asked: _RequestedTokenizer) -> Any:
    assert asked.section.path is not None, "its way says so"
    path = checkpoints.locate(asked.section.path)
    require_local(f"{asked.field}.path", path)
    try:
        return asked.kind.from_pretrained(path)
    except InputError as error:
        raise InputError(f"{asked.field}.path: {error}") from None


def _train(asked: _RequestedTokenizer) -> Any:
    if asked.kept is None:
        return untrained_tokenizer(asked.section)
    return trained_tokenizer(asked.name, asked.section, asked.splits, asked.kept, device(asked.device))


def _build(asked: _RequestedTokenizer) -> Any:
    options = asked.section.options
    check_options(asked.field, asked.kind, options)
    return _named(asked.field, lambda: asked.kind(**options))


def _train_text(asked: _RequestedTokenizer) -> Any:
    options = {"texts": _texts(asked.splits), "vocab_size": 8192, **asked.section.options}
    check_options(asked.field, asked.kind.train, options)
    tokenizer = _named(asked.field, lambda: asked.kind.train(**options))
    if asked.kept:
        tokenizer.save_pretrained(asked.kept)
    return tokenizer


# How a tokenizer is made: read from a path, trained on the data, learned from the texts, or made from its options.
WAYS: dict[str, Callable[[_RequestedTokenizer], Any]] = {
    "loaded": _load,
    "trained": _train,
    "vocabulary": _train_text,
    "built": _build,
}


def _named(field: str, make: Callable[[], T]) -> T:
    """What `make` gives; its InputError begins with the dotted field of the recipe."""
    try:
        return make()
    except InputError as error:
        message = str(error)
        if not message.startswith("tokenizers."):
            message = f"{field}.{message}"
        raise InputError(message) from None


def _bytes(asked: _RequestedTokenizer) -> Any:
    """A text tokenizer that has learned nothing yet."""
    options = {"vocab_size": 8192, **asked.section.options, "texts": []}
    check_options(asked.field, asked.kind.train, options)
    return _named(asked.field, lambda: asked.kind.train(**options))


def _texts(splits: Splits) -> list[str]:
    """All texts of the training split in order of appearance, each once. No picture or sound is read for them."""
    found: dict[str, None] = {}
    for index in range(len(splits.train)):
        found |= dict.fromkeys(texts_of(outline(splits.train, index)))
    if not len(splits.train) and len(splits.held_out):
        raise InputError(
            f"data.held_out: all {len(splits.held_out)} samples are held out, so none is left to train on; give "
            "data.held_out=0, or more samples"
        )
    require(found, "data: no sample has any text to train the text tokenizer on; give captions")
    return list(found)
