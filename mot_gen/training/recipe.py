"""Recipes: what to train, on what and how; YAML that is checked when it is read.

`Recipe` is eight sections, each a small class with its defaults: `Data`, `Tokenizer` (one a modality), `Backbone`,
an objective a modality (`NextToken`, `Flow`, `Diffusion` or `OtherObjective`), `Training`, `Sampling`, `Evaluation`.
`load_recipe` reads a file or a shipped recipe and applies `KEY=VALUE` overrides; `Recipe.save` writes the resolved one.
`locate` finds an implementation by module name or dotted path, `check_options` holds its options to its signature.
Whatever is wrong becomes an `InputError` of one line: the file, the dotted field, the value and the remedy.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from mot_gen.errors import InputError, nearest

# Numbers are strict, so that `steps: true` and `lr: "fast"` are errors and not 1 and a guess.
Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
ParameterGroup = Literal["attention_norm", "qkv", "qk_norm", "out", "ffn_norm", "ffn"]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Data(Section):
    """Where samples come from, how they are split, arranged and planned."""

    source: str = "digits"  # digits, emoji, records, or a dotted path to a module with `load(data: Data) -> Splits`
    records: list[str] = []  # jsonl, parquet or tar files, or folders of image and caption pairs; sets source: records
    options: dict[str, Any] = {}  # whatever a source of your own wants to know
    caption_first: Share = 0.5  # probability that a pair's caption stands before its image (Transfusion: 0.8)
    caption_dropout: Share = 0.1  # probability that a pair loses its caption, for classifier-free guidance
    held_out: Share = 0.15  # share of the samples that training never sees
    split_seed: Whole = 0
    window: Count = 4096  # samples that are shuffled, tokenised and packed together: memory against row fill
    cache_mb: Whole = 256  # tokenised spans kept in memory between epochs, in MiB
    accept_changed: Switch = False  # resume although the samples changed; the epoch then begins anew

    @field_validator("records", mode="before")
    @classmethod
    def _one_or_many(cls, value):
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _records_are_a_source(self):
        if self.records:
            self.source = "records"
        if self.source == "records" and not self.records:
            raise ValueError("source 'records' needs data.records=FILE")
        if self.held_out == 1:
            raise ValueError("held_out 1 leaves nothing to train on; give less")
        return self


class Tokenizer(BaseModel):
    """A tokenizer: a module under `mot_gen.tokenizers` or a dotted path, and the options that it takes."""

    model_config = ConfigDict(extra="allow")

    kind: str
    path: str | None = None  # a folder or a hub name to load instead of building anew

    @property
    def options(self) -> dict[str, Any]:
        """What to build the tokenizer with; checked by `check_options` when it is built."""
        return dict(self.model_extra)


class Backbone(Section):
    """What turns (B, S, D) into (B, S, D). Give `size`, or `dim`, `layers` and `heads`."""

    kind: str = "mot"  # dense, mot, a module under `mot_gen.backbone`, or a dotted path
    size: str | None = None  # a named size, see mot_gen/backbone/sizes.py
    dim: Count | None = None
    layers: Count | None = None
    heads: Count | None = None
    kv_heads: Count | None = None  # fewer than heads: grouped-query attention; default as many
    ffn_dim: Count | None = None  # default: Llama's 8/3 of dim, rounded up
    towers: dict[str, list[str]] | None = None  # tower: its modalities; default one tower a modality
    untied: list[ParameterGroup] | None = None  # what each tower owns; default everything (mot) or nothing (dense)
    norm: Literal["pre", "output"] = "pre"  # output: Chameleon-34B's norm on each sublayer's output
    qk_norm: Switch = True
    rope_theta: Positive = 10000.0
    frozen: list[str] = []  # towers that do not learn
    lr_factors: dict[str, NonNegative] = {}  # tower: factor on the learning rate
    options: dict[str, Any] = {}  # whatever another kind of backbone wants to know

    @model_validator(mode="after")
    def _sizes_fit(self):
        explicit = {"dim": self.dim, "layers": self.layers, "heads": self.heads}
        absent = [name for name, value in explicit.items() if value is None]
        if self.size and len(absent) < 3:
            raise ValueError(f"size {self.size!r} already says dim, layers and heads; give one or the other")
        if not self.size and absent:
            raise ValueError(f"no {', '.join(absent)}; give dim, layers and heads, or a named size")
        if not self.size:
            self._heads_fit()
        if self.kind == "dense" and (self.towers or self.untied):
            raise ValueError("kind 'dense' unties nothing; drop towers and untied, or say kind: mot")
        return self

    def _heads_fit(self):
        if self.dim % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide dim ({self.dim})")
        if self.dim // self.heads % 2:
            raise ValueError(f"dim / heads ({self.dim // self.heads}) must be even: rotary positions turn pairs")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")


class _Objective(Section):
    kind: str
    weight: NonNegative = 1.0  # of this modality's loss in the sum; Transfusion gives images 5

    @property
    def options(self) -> dict[str, Any]:
        """What to build the objective with."""
        return self.model_dump(exclude={"kind", "weight"})


class NextToken(_Objective):
    """Cross-entropy of the next discrete token."""

    kind: Literal["next_token"] = "next_token"
    z_loss: NonNegative = 0.0  # weight of the squared log-partition; Chameleon: 1e-5
    label_smoothing: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0


class Flow(_Objective):
    """Rectified flow between data (time 0) and noise (time 1)."""

    kind: Literal["flow"] = "flow"
    time: Literal["uniform", "logit_normal"] = "logit_normal"
    mean: Real = 0.0  # of the normal under the logit
    std: Positive = 1.0
    shift: Positive = 1.0  # above 1: more time at high noise, as larger images need
    prediction: Literal["velocity", "sample"] = "velocity"
    cap: Share | None = None  # the most noise for an image that learned text follows; Transfusion: 0.5


class Diffusion(_Objective):
    """Denoising diffusion with discrete steps."""

    kind: Literal["diffusion"] = "diffusion"
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    schedule: Literal["cosine", "linear"] = "cosine"
    steps: Count = 1000
    cap: Share | None = None  # as for Flow, as a share of the steps


class OtherObjective(_Objective):
    """An objective of your own: a module under `mot_gen.objectives` or a dotted path, and its options."""

    model_config = ConfigDict(extra="allow")


OBJECTIVES = {"next_token": NextToken, "flow": Flow, "diffusion": Diffusion, "other": OtherObjective}


def _objective_class(value) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in OBJECTIVES else "other"


Objective = Annotated[
    Annotated[NextToken, Tag("next_token")]
    | Annotated[Flow, Tag("flow")]
    | Annotated[Diffusion, Tag("diffusion")]
    | Annotated[OtherObjective, Tag("other")],
    Discriminator(_objective_class),
]


class Training(Section):
    """The loop: AdamW, linear warm-up, cosine from `lr` to `min_lr`."""

    steps: Count = 1000  # optimizer steps
    seed: Whole = 0
    lr: Positive = 3e-4
    min_lr: NonNegative = 1.5e-5
    warmup_steps: Whole = 100
    weight_decay: NonNegative = 0.1
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Positive = 1e-8
    clip: NonNegative = 1.0  # the largest gradient norm; 0 = off
    row_length: Count = 512  # slots a row
    rows: Count = 8  # rows a batch, on each process
    accumulate: Count = 1  # batches an optimizer step
    ema: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0  # decay of the averaged weights; 0 = off
    log_every: Count = 10
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 3
    sample_every: Whole = 0  # 0 = never
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Switch = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Whole = 0  # of torch on a CPU; 0 = torch's own choice
    workers: Whole = 0  # threads that decode and tokenise ahead; 0 = in line
    max_corrupt: Whole = 10  # samples that may be unreadable or too long before training stops

    @model_validator(mode="after")
    def _rates_descend(self):
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr ({self.min_lr}) is above lr ({self.lr}); lower it")
        return self


class Sampling(Section):
    """How samples are drawn, during training and by default afterwards."""

    num_inference_steps: Count = 50
    guidance_scale: NonNegative = 3.0  # 1 = conditional, 0 = unconditional
    temperature: NonNegative = 1.0  # 0 = greedy
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    max_new_tokens: Count = 64


class Evaluation(Section):
    """What is measured along the way and at the end."""

    samples: Count = 500
    every: Whole = 0  # steps between evaluations; 0 = only at the end
    prompts: list[str] = []  # shown in sample grids


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

    @property
    def towers(self) -> dict[str, list[str]]:
        """tower name -> its modalities, as given or one tower a modality."""
        return self.backbone.towers or {name: [name] for name in self.tokenizers}

    @model_validator(mode="after")
    def _names_agree(self):
        modalities = list(self.tokenizers)
        self.objectives.setdefault(modalities[0], NextToken())
        _all_known("objectives", self.objectives, modalities)
        absent = [name for name in modalities if name not in self.objectives]
        if absent:
            raise ValueError(f"objectives.{absent[0]} is missing; give its kind: flow, diffusion or next_token")
        placed = [name for members in self.towers.values() for name in members]
        _all_known("backbone.towers", placed, modalities)
        if sorted(placed) != sorted(modalities):
            raise ValueError(f"backbone.towers must hold each of {', '.join(modalities)} exactly once, got {placed}")
        _all_known("backbone.frozen", self.backbone.frozen, self.towers)
        _all_known("backbone.lr_factors", self.backbone.lr_factors, self.towers)
        return self

    @model_validator(mode="after")
    def _kinds_exist(self):
        _kind_exists("data.source", "mot_gen.training", self.data.source, ["digits", "emoji", "records"])
        _kind_exists("backbone.kind", "mot_gen.backbone", self.backbone.kind, ["dense", "mot"])
        for name, tokenizer in self.tokenizers.items():
            _kind_exists(f"tokenizers.{name}.kind", "mot_gen.tokenizers", tokenizer.kind, [])
        for name, objective in self.objectives.items():
            _kind_exists(f"objectives.{name}.kind", "mot_gen.objectives", objective.kind, OBJECTIVES)
        return self

    def save(self, path: str | Path) -> None:
        """Writes the resolved recipe, every field of it; `load_recipe(path)` gives an equal one."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
        Path(path).write_text(text, encoding="utf-8")


def _all_known(field: str, names, allowed) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{field}: {name!r} is not known{nearest(name, allowed)}")


# ---------------------------------------------------------------- implementations by name


def _module_name(package: str, kind: str) -> str:
    return kind if "." in kind else f"{package}.{kind}"


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _kind_exists(field: str, package: str, kind: str, built_in) -> None:
    if kind in built_in or _exists(_module_name(package, kind)):
        return
    modules = [m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    raise ValueError(f"{field}: {kind!r} is neither shipped nor importable{nearest(kind, {*built_in, *modules})}")


def locate(package: str, kind: str) -> ModuleType:
    """The module that a recipe's `kind` names: `package.kind`, or `kind` itself when it is a dotted path."""
    return importlib.import_module(_module_name(package, kind))


def check_options(field: str, call: Callable, options: dict[str, Any]) -> None:
    """Refuses options that `call` does not take; `field` is where in the recipe they stand."""
    parameters = inspect.signature(call).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in options:
        if name not in parameters:
            raise InputError(f"{field}.{name} is not known{nearest(name, [p for p in parameters if p != 'self'])}")


# ---------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as everywhere else, and a key given twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{source}:{line} not valid YAML: {getattr(error, 'problem', None) or error}") from None


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("mot_gen.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read(name_or_path: str | Path) -> str:
    path = Path(name_or_path)
    try:
        if path.suffix in (".yaml", ".yml"):
            return path.read_text(encoding="utf-8")
        return resources.files("mot_gen.recipes").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        if path.suffix:
            raise InputError(f"{path}: no such recipe file") from None
        raise InputError(
            f"recipe {str(path)!r} is not shipped{nearest(str(path), shipped())}, or a .yaml file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the recipe: {getattr(error, 'strerror', None) or error}") from None


def _override(raw: dict, text: str) -> str:
    """Sets one KEY=VALUE in `raw` and returns the key. A new kind of objective keeps nothing but its weight."""
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise InputError(f"override {text!r} is not KEY=VALUE, as in training.steps=100")
    *path, last = key.split(".")
    node = raw
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise InputError(f"override {text!r}: {part!r} is a value and has no fields")
    parsed = _parse(value, f"override {key}")
    if path[:1] == ["objectives"] and last == "kind" and node.get("kind") != parsed:
        for option in set(node) - {"weight"}:
            del node[option]
    node[last] = parsed
    return key


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe: a YAML file, or the name of a shipped one; `overrides` are `KEY=VALUE`, values in YAML.

    Raises InputError, one line, for a file that cannot be read and for every field that is unknown or wrong.
    """
    source = str(name_or_path)
    raw = _parse(_read(name_or_path), source)
    if not isinstance(raw, dict):
        raise InputError(f"{source}: a recipe is a mapping with name, data, tokenizers, ..., got {type(raw).__name__}")
    overridden = [_override(raw, text) for text in overrides]
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise InputError(_one_line(error, source, overridden)) from None


# ---------------------------------------------------------------- errors


def _one_line(error: ValidationError, source: str, overridden: list[str]) -> str:
    """The first of a validation's errors, with the file or the override that it comes from."""
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    field = ".".join(str(part) for i, part in enumerate(location) if not (location[0] == "objectives" and i == 2))
    where = f"override {field}" if field in overridden else f"{source}: {field}" if field else source
    if first["type"] == "extra_forbidden":
        return f"{where} is not known{nearest(location[-1], _allowed(location))}"
    if first["type"] == "missing":
        return f"{where} is missing; give it a value"
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}"
    expected = first["msg"].replace("Input should", "should").replace("\n", " ")
    return f"{where} {expected}, got {first['input']!r}"


def _allowed(location: tuple) -> list[str]:
    """The keys that may stand beside the one at `location`; objectives' locations hold their kind third."""
    if len(location) == 1:
        return list(Recipe.model_fields)
    if location[0] == "objectives":
        return list(OBJECTIVES[location[2]].model_fields)
    return list(Recipe.model_fields[location[0]].annotation.model_fields)
