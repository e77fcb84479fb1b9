"""Origin: the checkpoint that `training.init` names, from whose weights training starts.

A model is bound to its tokenizers: the id 300 means what its own vocabulary says. So an origin brings its tokenizers
along, and others are refused. `Origin.values` gives its weights; `Origin.lines` says what is loaded, frozen and new.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch import Tensor

from mot_gen import checkpoints, objectives
from mot_gen.backbone.modality_layers.embeddings import USUAL_TIME_SCALE
from mot_gen.backbone.routing import is_adapter
from mot_gen.checkpoints.folders import INDEX, as_text, read_json, refuse_foreign, tensor_shapes, tokenizer_part
from mot_gen.errors import InputError
from mot_gen.files import manifest
from mot_gen.model import MultimodalModel
from mot_gen.recipes.implementations import locate
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Tokenizer


@dataclass(frozen=True)
class Origin:
    """The checkpoint of `training.init`.

    name: as the recipe says it. model: the folder with the weights. pipeline: the folder with `model_index.json`, None
    where there are weights alone.
    """

    name: str
    model: Path
    pipeline: Path | None

    @classmethod
    def of(cls, recipe: Recipe) -> Origin | None:
        """The recipe's origin, None where training starts from random weights. InputError where it is missing or
        damaged."""
        origin = cls.unread(recipe)
        if origin and origin.pipeline and (origin.pipeline / manifest.NAME).exists():
            damage = manifest.damage(origin.pipeline)
            if damage:
                raise InputError(f"training.init: {damage}; export it again, or fetch it again")
        return origin

    @classmethod
    def unread(cls, recipe: Recipe) -> Origin | None:
        """The same, without reading its weights to see whether they are damaged."""
        name = recipe.training.init
        if not name:
            return None
        model = checkpoints.weights_of(name)
        if model is None:
            raise InputError(f"training.init: {name} holds no model; give the folder of a run, or of its model")
        manifest.refuse_pickle(model)
        in_pipeline = (model.parent / INDEX).is_file()
        return cls(name, model, model.parent if in_pipeline else None)

    # ---------------------------------------------------------------- tokenizers

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config of the model."""
        return read_json(self.model / "config.json")

    @cached_property
    def modalities(self) -> list[str]:
        """Names of the model's modalities, text first."""
        return [modality["name"] for modality in self.config.get("modalities", [])]

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """Modality -> fingerprint of the tokenizer that the model was trained with, as far as it says so."""
        return self.config.get("tokenizers") or {}

    def refuse_fewer_ids(self, sections: Mapping[str, Tokenizer]) -> None:
        """InputError where the recipe asks for a smaller vocabulary than the model has, as its config says."""
        for modality in self.config.get("modalities", []):
            name, ids = modality["name"], modality.get("vocab_size") or 0
            most = sections[name].options.get("vocab_size") if name in sections else None
            if isinstance(most, int) and ids > most:
                raise InputError(
                    f"tokenizers.{name}.vocab_size: {most} is asked for and {self.name} has {ids} ids; leave "
                    f"vocab_size out (auto asks for it too), or take the recipe of that model, since {self._bound}"
                )

    def tokenizer(self, name: str) -> Any | None:
        """The checkpoint's tokenizer of a modality; None where it has none."""
        if self.pipeline is None or name not in self.modalities:
            return None
        part = tokenizer_part(name, self.modalities)
        module, class_name = read_json(self.pipeline / INDEX).get(part) or (None, None)
        if module is None:
            return None
        refuse_foreign(self.pipeline)
        kind = getattr(importlib.import_module(module), cast("str", class_name))
        return kind.from_pretrained(self.pipeline / part)

    def refuse_other(self, name: str, section: Tokenizer, own: Any, asked: Any | None) -> None:
        """InputError where the recipe asks for another tokenizer than the checkpoint's `own`.

        asked: the tokenizer that the recipe describes, as far as it can be made without training; else None.
        """
        field = f"tokenizers.{name}"
        if type(own).__module__ != locate("mot_gen.tokenizers", section.kind).__name__:
            raise InputError(f"{field}.kind: {section.kind!r} is not that of {self.name} ({type(own).__name__})")
        if asked is None or _same(asked, own, learns=section.train is not None):
            return
        raise InputError(
            f"{field}: describes {_in_words(asked)}, and {self.name} has {_in_words(own)}; {self._bound}, so leave "
            "out what differs, or train without training.init"
        )

    @property
    def _bound(self) -> str:
        return f"the weights of {self.name} are bound to their own tokenizer"

    def refuse_new(self, name: str) -> None:
        """InputError: a tokenizer would be trained for weights that lie without their own."""
        raise InputError(
            f"training.init: {self.model} has weights without a tokenizer for {name}, and a new one would give every "
            f"id another meaning; give the folder above it, or tokenizers.{name}.path"
        )

    def refuse_unbound(self, name: str, tokenizer: Any) -> None:
        """InputError where the model says which tokenizer it was trained with, and it is another."""
        bound = self.fingerprints.get(name)
        if bound and tokenizer.fingerprint != bound:
            raise InputError(
                f"tokenizers.{name}: is not the tokenizer that {self.name} was trained with; give the path of that one"
            )

    # ---------------------------------------------------------------- weights

    def values(self, outline: MultimodalModel) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each of the checkpoint's weights; InputError where they are not those of `outline`."""
        self._refuse_other_weights(outline)
        with ExitStack() as stack:
            for path in sorted(self.model.glob("*.safetensors")):
                file = stack.enter_context(safe_open(path, "pt"))
                for name in file.keys():  # noqa: SIM118  a safetensors file is no mapping
                    yield name, file.get_tensor(name)

    def _refuse_other_weights(self, outline: MultimodalModel) -> None:
        wanted = {name: tuple(p.shape) for name, p in outline.named_parameters()}
        there = tensor_shapes(self.model)
        for name, shape in wanted.items():
            may_be_new = _is_of_step(name) or is_adapter(name)
            if name in there or not may_be_new:
                self._refuse_other_shape(name, there.get(name), shape)
        self._refuse_other_times(outline)
        foreign = there.keys() - wanted.keys()
        if foreign:
            raise InputError(f"training.init: {self.name} has {min(foreign)}, which this recipe's model lacks")

    def _refuse_other_shape(self, name: str, there: tuple[int, ...] | None, wanted: tuple[int, ...]) -> None:
        """InputError where a weight has another shape than the recipe's. there: None where the checkpoint lacks it."""
        if there == wanted:
            return
        found = "not there" if there is None else as_text(there)
        raise InputError(
            f"training.init: {name} of {self.name} is {found}, this recipe's {as_text(wanted)}; its backbone "
            "and tokenizers must be those of that model"
        )

    def _refuse_other_times(self, outline: MultimodalModel) -> None:
        """InputError where times are embedded at another scale, which no shape tells."""
        for name, layers in outline.patch_layers.items():
            embedding = getattr(layers, "time", None)
            if embedding is None:
                continue
            there = self._time_scale(name)
            if embedding.scale != there:
                raise InputError(
                    f"training.init: {self.name} embeds the times of {name} at a scale of {there:g}, this recipe at "
                    f"{embedding.scale:g}; say objectives.{name}.time_scale={there:g}, or train without training.init"
                )

    def _time_scale(self, name: str) -> float:
        """The scale at which the checkpoint embeds the times of a modality."""
        stated = self._options("patch_layers", name)
        if "time_scale" in stated:
            return stated["time_scale"]
        modality = self.config["modalities"][self.modalities.index(name)]
        options = self._options("objectives", name)
        kind = options.pop("kind", modality.get("objective", "next_token"))
        return getattr(objectives.load(kind, options), "time_scale", USUAL_TIME_SCALE)

    def _options(self, section: str, name: str) -> dict[str, Any]:
        """The options of a modality in a section of the model's config."""
        stated = self.config.get(section) or {}
        return dict(stated.get(name) or {})

    def _counted(self, model: MultimodalModel) -> tuple[int, int, int]:
        """How many weights are loaded, how many of adapters are new, and how many that embed the sampler's step."""
        there = tensor_shapes(self.model)
        loaded = adapters = steps = 0
        for name, parameter in model.named_parameters():
            if name in there:
                loaded += parameter.numel()
            elif is_adapter(name):
                adapters += parameter.numel()
            else:
                steps += parameter.numel()
        return loaded, adapters, steps

    def lines(self, recipe: Recipe, model: MultimodalModel, tokenizers: Mapping[str, Any]) -> list[str]:
        """Three lines: where training begins, what was loaded, what is frozen and what is new."""
        loaded, adapters, steps = self._counted(model)
        described = [f"{name} ({_in_words(tokenizer)})" for name, tokenizer in tokenizers.items()]
        whose = "its own tokenizers" if self.pipeline else "the recipe's tokenizers"
        return [
            f"training begins with {self.name} ({self.model}), by training.init",
            f"loaded: {loaded:,} weights, and {whose}: {', '.join(described)}",
            f"frozen: {_frozen_in_words(recipe, model, loaded)}; new: {_new_in_words(adapters, steps)}",
        ]


def _frozen_in_words(recipe: Recipe, model: MultimodalModel, loaded: int) -> str:
    """The loaded weights that do not learn."""
    if recipe.backbone.lora:
        return f"all {loaded:,} of them"
    frozen = []
    if recipe.backbone.frozen:
        frozen.append("the towers " + ", ".join(recipe.backbone.frozen))
    apart = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    if apart:
        frozen.append(f"{apart:,} weights of layers and parts")
    return " and ".join(frozen) or "nothing"


def _new_in_words(adapters: int, steps: int) -> str:
    """The weights that the checkpoint does not have. adapters, steps: how many there are of these two kinds."""
    new = []
    if adapters:
        new.append(f"{adapters:,} weights of adapters")
    if steps:
        new.append(f"{steps:,} weights that embed the sampler's step")
    return ", ".join(new) or "nothing"


def _same(asked: Any, own: Any, learns: bool) -> bool:
    """Whether two tokenizers are one; of one that learns, whether a model sees no difference."""
    if learns:
        return _outline_of(asked) == _outline_of(own)
    return asked.fingerprint == own.fingerprint


def _is_of_step(name: str) -> bool:
    """Whether a parameter embeds the sampler's step, which a flow model lacks: it may begin to learn steps."""
    return name.startswith("patch_layers.") and ".step." in name


def _outline_of(tokenizer: Any) -> tuple:
    """What a model can see of a tokenizer without its weights."""
    return tokenizer.modality, getattr(tokenizer, "grids", None), getattr(tokenizer, "color_channels", None)


def _in_words(tokenizer: Any) -> str:
    """A tokenizer in a few words."""
    modality = tokenizer.modality
    words = [f"{modality.vocab_size} ids" if modality.discrete else f"{modality.channels} channels"]
    for height, width in getattr(tokenizer, "grids", None) or ():
        words.append(f"{height} x {width} pixels")
    return ", ".join([*words, tokenizer.fingerprint[:8]])
