"""Recipes: what to train, on what and how; YAML that is checked when it is read.

`Recipe` is eight sections, each a small class with its defaults: `Data`, `Tokenizer` and `Objective` (one a modality),
`Backbone`, `Training`, `Sampling`, `Evaluation`. The options of a tokenizer, a backbone or an objective are its own:
`check_options` holds them to the names and types in its signature, so that a recipe knows every implementation, also a
user's, and repeats none. `locate` finds an implementation by module name or dotted path. `load_recipe` reads a file or
a shipped recipe and applies `KEY=VALUE` overrides, `recipe_of` takes a mapping; `Recipe.save` writes the resolved one;
`differences` compares two. Whatever is wrong becomes an `InputError` of one line: the file, the dotted field, the value
and the remedy.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator

from mot_gen.backbone import PRESETS
from mot_gen.backbone.lora import Lora
from mot_gen.data.augment import Augment
from mot_gen.data.mixture import Records, listed, one_or_many
from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Modality

# Numbers are strict, so that `steps: true` and `lr: "fast"` are errors and not 1 and a guess.
Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Decay = Annotated[float, Field(strict=True, ge=0, lt=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
SOURCES = ("digits", "openmoji", "records")


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Data(Section):
    """Where samples come from, how they are split, arranged and planned."""

    source: str = "digits"  # digits, emoji, records, or a dotted path to a module with `load(data: Data) -> Splits`
    records: Annotated[list[Records], BeforeValidator(listed)] = []  # jsonl, parquet or tar files, or folders of image
    # and caption pairs, each a path or {path, weight}; sets source: records
    held_out_records: Annotated[
        list[str], BeforeValidator(one_or_many)
    ] = []  # paths likewise, to be held out; then nothing of `records` is
    options: dict[str, Any] = {}  # whatever a source of your own wants to know
    caption_first: Share = 0.5  # probability that a pair's caption stands before its image (Transfusion: 0.8)
    caption_dropout: Share = 0.1  # probability that a pair loses its caption, for classifier-free guidance
    augment: Augment = Field(default_factory=Augment)  # of training pictures: degrees, shift, scale, variants
    held_out: Share = 0.15  # share of the samples that training never sees
    split_seed: Whole = 0
    window: Count = 4096  # samples that are shuffled, tokenised and packed together: memory against row fill
    block: Count = 1  # neighbours that the shuffle keeps together, for files that are slow to read here and there
    cache_mb: Whole = 256  # tokenised spans kept in memory between epochs, in MiB
    accept_changed: Switch = False  # resume although the samples changed; the epoch then begins anew

    @model_validator(mode="after")
    def _records_are_a_source(self):
        if self.records:
            self.source = "records"
        if self.source == "records" and not self.records:
            raise ValueError("source 'records' needs data.records=FILE")
        if self.held_out_records and not self.records:
            raise ValueError("held_out_records holds out beside records; give data.records=FILE too")
        if self.held_out == 1:
            raise ValueError("held_out 1 leaves nothing to train on; give less")
        return self


class Component(BaseModel):
    """An implementation by `kind` and, beside it, the options that this kind takes."""

    model_config = ConfigDict(extra="allow")

    kind: str  # a module's name in the folder of its sort, or a dotted path

    @property
    def options(self) -> dict[str, Any]:
        """What the recipe gives to build it with."""
        return dict(self.model_extra)


class Tokenizer(Component):
    """A module under `mot_gen.tokenizers`; its options are checked when it is built, or when the recipe is read if it
    is to be trained, which the module `train_KIND` beside it does (see mot_gen/training/trained_tokenizers.py)."""

    path: str | None = None  # a folder, a hub name or openmoji/image_tokenizer (shipped), loaded instead of built anew
    train: dict[str, Any] | None = None  # options of its training on the run's own samples; {} for its defaults


class Objective(Component):
    """A module under `mot_gen.objectives` (next_token, flow, diffusion), with an `Objective` that takes the options."""

    weight: NonNegative = 1.0  # of this modality's loss in the sum; Transfusion gives images 5


class Backbone(Component):
    """A preset (dense, mot, moe4x, hybrid, mamba, mom) or a module under `mot_gen.backbone`, whose `Config` takes the
    options: size or dim, ..."""

    kind: str = "mot"
    frozen: list[str] = []  # towers that do not learn
    lr_factors: dict[str, NonNegative] = {}  # tower: factor on the learning rate
    lora: Lora | None = None  # adapters that learn in the place of everything else; needs training.init
    patch_layers: dict[str, dict[str, Any]] = {}  # continuous modality: {kind: linear or unet, and its options}
    positions: dict[str, Literal["sequence", "grid"]] = {}  # modality: one position a token, or one a span (BAGEL)


class Training(Section):
    """The loop: AdamW or Muon, linear warm-up, cosine from `lr` to `min_lr`."""

    steps: Count = 1000  # optimizer steps
    seed: Whole = 0
    init: str | None = None  # a model's folder, or a shipped checkpoint's name, whose weights training begins with
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the backbone's matrices, on whole models
    lr: Positive = 3e-4
    min_lr: NonNegative = 1.5e-5
    warmup_steps: Whole = 100
    weight_decay: NonNegative = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Positive = 1e-8
    clip: NonNegative = 1.0  # the largest gradient norm; 0 = off
    spike: NonNegative = 0.0  # skip steps whose gradient norm is this many times the usual; 0 = off
    row_length: Count = 512  # slots a row
    rows: Count = 8  # rows a batch, on each process
    accumulate: Count = 1  # batches an optimizer step, on each process
    global_rows: Whole = 0  # rows an optimizer step on all processes together, instead of accumulate; 0 = not fixed
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"  # how many processes share one model, docs/scaling.md
    shard: Whole = 0  # hsdp: processes that share one copy of the weights; 0 = those of one machine
    patience: Positive = 1800.0  # seconds that processes wait for one another before the run is given up
    gradient_checkpointing: Switch = False  # recompute blocks in the backward pass: less memory, 4/3 of the time
    ema: Decay = 0.0  # decay of the averaged weights; 0 = off
    log_every: Count = 10
    watch: list[Literal["tensorboard", "wandb"]] = []  # where lines of metrics.jsonl go besides; extras of their names
    peak_flops: NonNegative = 0.0  # a device's FLOPs a second, for MFU; 0 = measured by a matrix product at the start
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
    speech_guidance_scale: NonNegative = 1.0  # of spoken units
    speech_temperature: NonNegative = 1.0
    image_temperature: NonNegative = 1.0  # of pictures that are discrete tokens
    image_top_k: Whole = 0  # the likeliest ids that they are drawn from; 0 = all
    image_top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0


class Evaluation(Section):
    """What is measured along the way and at the end."""

    samples: Count = 500  # pictures drawn, and captions written, each time
    batch_size: Count = 100  # of them generated together
    every: Whole = 0  # steps between evaluations, which the last step always has; 0 = none on the way
    metrics: list[str] = []  # of `mot-gen eval`: fd, kd, cmmd, pr, clip, bleu, cider-d, exact_match, bits_per_byte, ...
    extractor: str = "efficientnet-lite0"  # of features: a name as in `mot-gen eval images`; pixels for tiny pictures
    weights: str | None = None  # local weights of the extractor
    clip: str | None = None  # folder of the CLIP of the metrics clip and refclip
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

    @model_validator(mode="after")
    def _modalities_agree(self):
        modalities = list(self.tokenizers)
        self.objectives.setdefault(modalities[0], Objective(kind="next_token"))
        _all_known("objectives", self.objectives, modalities)
        absent = [name for name in modalities if name not in self.objectives]
        if absent:
            raise InputError(f"objectives.{absent[0]} is missing; give its kind: flow, diffusion or next_token")
        _all_known("backbone.patch_layers", self.backbone.patch_layers, modalities)
        return self

    @model_validator(mode="after")
    def _implementations_fit(self):
        source = _module("data.source", "mot_gen.datasets", self.data.source, SOURCES)
        _member("data.source", source, "load")
        for name, tokenizer in self.tokenizers.items():
            _module(f"tokenizers.{name}.kind", "mot_gen.tokenizers", tokenizer.kind)
            if tokenizer.train is not None:
                _trainable(f"tokenizers.{name}", tokenizer)
        for name, objective in self.objectives.items():
            field = f"objectives.{name}"
            module = _module(f"{field}.kind", "mot_gen.objectives", objective.kind)
            _built(field, _member(field, module, "Objective"), objective.options)
        return self

    @model_validator(mode="after")
    def _backbone_fits(self):
        kind, options = self.backbone.kind, self.backbone.options
        module_name, preset = PRESETS.get(kind, (kind, {}))
        module = _module("backbone.kind", "mot_gen.backbone", module_name, PRESETS)
        if kind == "dense" and (options.get("towers") or options.get("untied")):
            raise InputError("backbone: kind 'dense' unties nothing; drop towers and untied, or say kind: mot")
        config = _built("backbone", _member("backbone", module, "Config"), {**preset, **options})
        modalities = [Modality(name, vocab_size=1) for name in self.tokenizers]
        towers = config.tower_table(modalities)[0] if hasattr(config, "tower_table") else list(self.tokenizers)
        _all_known("backbone.frozen", self.backbone.frozen, towers)
        if self.backbone.lora:
            _all_known("backbone.lora.towers", self.backbone.lora.towers, towers)
            if not self.training.init:
                raise InputError("backbone.lora: adapts a model that was trained; give its folder by training.init")
            if self.backbone.frozen or self.backbone.lr_factors:
                raise InputError("backbone.lora: only adapters learn; leave out frozen and lr_factors")
        _all_known("backbone.positions", self.backbone.positions, self.tokenizers)
        _all_known("backbone.lr_factors", self.backbone.lr_factors, towers)
        return self

    def save(self, path: str | Path) -> None:
        """Writes the resolved recipe, every field of it; `load_recipe(path)` gives an equal one."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
        Path(path).write_text(text, encoding="utf-8")


def _trainable(field: str, tokenizer: Tokenizer) -> None:
    """Holds a tokenizer that is to be trained to the signatures of the module that trains it."""
    if tokenizer.path:
        raise InputError(
            f"{field}: path loads a trained tokenizer, train makes a new one; "
            f"say {field}='{{kind: {tokenizer.kind}, path: {tokenizer.path}}}', or leave out path"
        )
    name = trainer_name(tokenizer.kind)
    if not importlib.util.find_spec(name):
        raise InputError(f"{field}.train: {tokenizer.kind} learns nothing (there is no module {name}); leave it out")
    check_options(field, _member(field, name, "untrained"), tokenizer.options)
    try:
        _built(f"{field}.train", _member(field, name, "Training"), tokenizer.train)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(field) else f"{field}.train.{message}") from None


def _all_known(field: str, names, allowed) -> None:
    for name in names:
        if name not in allowed:
            raise InputError(f"{field}: {name!r} is not known{nearest(name, allowed)}")


def differences(before: Recipe, after: Recipe) -> list[str]:
    """`field: value -> value` for every field in which two recipes differ, as when a run is resumed with another."""
    return differing(before.model_dump(mode="json"), after.model_dump(mode="json"))


def differing(before: dict, after: dict) -> list[str]:
    """`field: value -> value` for every value in which two nested mappings differ, fields by their dotted paths."""
    flat_before, flat_after = _flat(before), _flat(after)
    names = [name for name in {**flat_before, **flat_after} if flat_before.get(name) != flat_after.get(name)]
    return [f"{name}: {flat_before.get(name)!r} -> {flat_after.get(name)!r}" for name in names]


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


# ---------------------------------------------------------------- implementations by name


def locate(package: str, kind: str) -> ModuleType:
    """The module that a recipe's `kind` names: `package.kind`, or `kind` itself when it is a dotted path."""
    return importlib.import_module(_module_name(package, kind))


def trainer_name(kind: str) -> str:
    """Name of the module that trains a kind of tokenizer: `train_KIND`, beside the tokenizer's own."""
    folder, _, name = _module_name("mot_gen.tokenizers", kind).rpartition(".")
    return f"{folder}.train_{name}"


def _module_name(package: str, kind: str) -> str:
    return kind if "." in kind else f"{package}.{kind}"


def _module(field: str, package: str, kind: str, also: Iterable[str] = ()) -> str:
    """Name of the module; InputError if it is not there. `also`: other names that a message may propose."""
    name = _module_name(package, kind)
    try:
        if importlib.util.find_spec(name):
            return name
    except ModuleNotFoundError:
        pass
    modules = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    raise InputError(f"{field}: {kind!r} is neither shipped nor importable{nearest(kind, {*modules, *also})}")


def _member(field: str, module: str, name: str) -> Callable:
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise InputError(f"{field}: module {module} has no {name}") from None


def check_options(field: str, call: Callable, options: dict[str, Any]) -> None:
    """Holds options to the names and types in the signature of `call`; `field` is where in the recipe they stand."""
    hints = get_type_hints(call.__init__ if inspect.isclass(call) and not is_dataclass(call) else call)
    parameters = inspect.signature(call).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    extra = "allow" if any(p.kind is p.VAR_KEYWORD for p in parameters) else "forbid"
    config = ConfigDict(extra=extra, strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    types = {name: (hints.get(name, Any), None) for name in named}
    try:
        create_model("Options", __config__=config, **types).model_validate(options)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        name = errors[0]["loc"][0]
        if len(errors[0]["loc"]) > 1:
            # Every member of a union complains on its own: one line for the option and all of its value.
            start = "Input should be "
            kinds = (e["msg"].removeprefix(start) for e in errors if e["loc"][0] == name and e["msg"].startswith(start))
            errors[0] |= {"msg": start + " or ".join(dict.fromkeys(kinds)), "input": options[name]}
        raise InputError(f"{field}.{name} {_complaint(errors[0], named)}") from None


def _built(field: str, call: Callable, options: dict[str, Any]) -> Any:
    check_options(field, call, options)
    try:
        return call(**options)
    except TypeError as error:
        raise InputError(f"{field}: {error}") from None


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
    return recipe_of(_parse(_read(name_or_path), source), source, overrides)


def recipe_of(raw: Any, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a mapping states, as `load_recipe`; `source` is what messages call it. `raw` is changed."""
    if not isinstance(raw, dict):
        raise InputError(f"{source}: a recipe is a mapping with name, data, tokenizers, ..., got {type(raw).__name__}")
    overridden = [_override(raw, text) for text in overrides]
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise InputError(_one_line(error, source, overridden)) from None


# ---------------------------------------------------------------- errors


def _one_line(error: ValidationError, source: str, overridden: list[str]) -> str:
    """The first of a validation's errors, behind the file or the override that it comes from."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error":
        message = f"{field}: {first['ctx']['error']}".removeprefix(": ")
    else:
        message = f"{field} {_complaint(first, _neighbours(first['loc']))}"
    named = re.split(r"[:\s]", message, maxsplit=1)[0]
    return (
        f"override {message}"
        if any(f"{named}.".startswith(f"{key}.") for key in overridden)
        else f"{source}: {message}"
    )


def _neighbours(location: tuple) -> Iterable[str]:
    """The keys that may stand beside the one at `location`."""
    section = Recipe
    for name in location[:-1]:
        field = getattr(section, "model_fields", {}).get(name)  # none for the number of an item or the key of a mapping
        if field:
            section = (get_args(field.annotation) or [field.annotation])[-1]
    return getattr(section, "model_fields", ())


def _complaint(error: dict, allowed: Iterable[str]) -> str:
    """What one of pydantic's errors says about the field before it."""
    if error["type"] == "extra_forbidden":
        return f"is not known{nearest(error['loc'][-1], allowed)}"
    if error["type"] == "missing":
        return "is missing; give it a value"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"should be names with their values, got {error['input']!r}"
    expected = error["msg"].replace("Input should", "should").replace("\n", " ")
    return f"{expected}, got {error['input']!r}"
