"""Implementations that a recipe names: `locate` finds the module of a kind, `check_options` holds options to the names
and types in a signature, `check_stated` to those that its source states, `build` makes what they describe.
`trainer_name` says which module trains a tokenizer; `check_trainer` and `check_trainable` hold a tokenizer's section to
it.

A kind is the name of a module in the folder of its sort (`flow` in objectives/) or a dotted path to a user's own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mot_gen.errors import InputError, nearest, require
from mot_gen.files.own_modules import exists, imported, not_found
from mot_gen.recipes.sections import Tokenizer
from mot_gen.recipes.signatures import stated_types

# Names of other trainers, and what the field is called here.
ELSEWHERE = {
    "batch_size": "rows",
    "clip_grad_norm": "clip",
    "learning_rate": "lr",
    "max_grad_norm": "clip",
    "max_steps": "steps",
    "mixed_precision": "precision",
    "num_epochs": "epochs",
    "num_steps": "steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "rows",
    "save_steps": "checkpoint_every",
    "seq_length": "row_length",
    "total_steps": "steps",
    "warmup": "warmup_steps",
}


def locate(package: str, kind: str) -> ModuleType:
    """The module that a recipe's `kind` names: `package.kind`, or `kind` itself when it is a dotted path. InputError
    where it cannot be imported."""
    return imported(kind, _module_name(package, kind))


def trainer_name(kind: str) -> str:
    """Name of the module that trains a kind of tokenizer: `train_KIND`, beside the tokenizer's own."""
    folder, _, name = _module_name("mot_gen.tokenizers", kind).rpartition(".")
    return f"{folder}.train_{name}"


def _module_name(package: str, kind: str) -> str:
    return kind if "." in kind else f"{package}.{kind}"


def module_of(field: str, package: str, kind: str, also: Iterable[str] = ()) -> str:
    """The name of the module; InputError if it is not there. `also`: other names that a message may propose."""
    name = _module_name(package, kind)
    if exists(field, name):
        return name
    raise InputError(f"{field}: {kind!r} is neither shipped nor importable{not_found(kind, {*_kinds(package), *also})}")


# What the file of a kind defines; the other files of its package are what kinds are made of.
_DEFINES = {
    "mot_gen.backbone": r"^class Backbone\b",
    "mot_gen.datasets": r"^def load\(",
    "mot_gen.objectives": r"^class Objective\b",
    "mot_gen.tokenizers": r"^class (?!(Image|Network|VQNetwork)Tokenizer\()\w+Tokenizer\(",
}


def _kinds(package: str) -> Iterator[str]:
    """The names of the kinds in a package, without importing them."""
    for folder in importlib.import_module(package).__path__:
        for file in Path(folder).glob("*.py"):
            if re.search(_DEFINES.get(package, ""), file.read_text(encoding="utf-8"), re.MULTILINE):
                yield file.stem


def member_of(field: str, module: str, name: str) -> Callable:
    """A class or function that a module must offer; InputError where it does not."""
    found: Any = getattr(imported(field, module), name, None)
    require(found is not None, f"{field}: module {module} has no {name}")
    require(callable(found), f"{field}: {name} of module {module} is neither a class nor a function")
    return found


def check_options(field: str, call: Callable, options: dict[str, Any]) -> None:
    """InputError unless options have the names and types in the signature of `call`.

    field: where in the recipe they stand.
    """
    _hold(field, options, *_options_of(call))


def check_stated(field: str, module: str, name: str, options: dict[str, Any]) -> None:
    """What `check_options` says, as far as the source of `name` in a module tells; the module is not imported."""
    types = stated_types(module, name)
    if types is not None:
        _hold(field, options, list(types), _model_of(tuple(types.items()), others=False))


def _hold(field: str, options: dict[str, Any], names: list[str], known: type[BaseModel]) -> None:
    """InputError for options that are not as the model of them has it. names: of all that it knows."""
    try:
        known.model_validate(options)
    except ValidationError as error:
        errors: list[dict[str, Any]] = [{**each} for each in error.errors(include_url=False)]
        name = str(errors[0]["loc"][0])
        raise InputError(f"{field}.{name} {complaint(_joined(errors, name, options), names)}") from None


@cache
def _options_of(call: Callable) -> tuple[list[str], type[BaseModel]]:
    """The names in the signature of `call`, and a model of them."""
    names, others = _parameters(call)
    of_constructor = inspect.isclass(call) and not is_dataclass(call)
    annotated = call.__init__ if of_constructor else call
    hints = types_of(annotated)
    return names, _model_of(tuple((name, hints.get(name, Any)) for name in names), others)


def types_of(annotated: Any) -> dict[str, Any]:
    """Name -> type, as annotations have it; nothing where they name what is not there, as under TYPE_CHECKING."""
    try:
        return get_type_hints(annotated)
    except NameError:
        return {}


@cache
def _model_of(types: tuple[tuple[str, Any], ...], others: bool) -> type[BaseModel]:
    """A model of options with these names and types, which takes longer to make than all else of a recipe. others:
    whether it takes more."""
    extra: Literal["allow", "forbid"] = "allow" if others else "forbid"
    config = ConfigDict(extra=extra, strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    fields: dict[str, Any] = {name: (kind, None) for name, kind in types}
    return create_model("Options", __config__=config, **fields)


def _parameters(call: Callable) -> tuple[list[str], bool]:
    """The names that a call takes, and whether it takes others too."""
    names, others = [], False
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            names.append(parameter.name)
    return names, others


def _joined(errors: list[dict[str, Any]], name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The first error; where every member of a union complains on its own, one for the option and all of its value."""
    first = errors[0]
    if len(first["loc"]) == 1:
        return first
    start = "Input should be "
    kinds: list[str] = []
    for error in errors:
        within = sum(isinstance(step, int) for step in error["loc"])  # so many lists
        kind = "a list of which each is " * within + error["msg"].removeprefix(start)
        if error["loc"][0] == name and error["msg"].startswith(start) and kind not in kinds:
            kinds.append(kind)
    return {**first, "msg": start + " or ".join(kinds), "input": options[name]}


def build(field: str, call: Callable, options: dict[str, Any]) -> Any:
    """What `call` makes of checked options; InputError where it refuses them."""
    check_options(field, call, options)
    try:
        return call(**options)
    except TypeError as error:
        raise InputError(f"{field}: {error}") from None


def check_trainer(field: str, tokenizer: Tokenizer) -> None:
    """InputError for a tokenizer that is to be trained where nothing trains it, or one is loaded."""
    if tokenizer.train is None:
        return
    kind, name = tokenizer.kind, trainer_name(tokenizer.kind)
    require(
        not tokenizer.path,
        f"{field}: path loads a trained tokenizer, train makes a new one; "
        f"say {field}='{{kind: {kind}, path: {tokenizer.path}}}', or leave out path",
    )
    known = importlib.util.find_spec(name)
    require(known, f"{field}.train: {kind} learns nothing (there is no module {name}); leave it out")


def check_trainable(field: str, tokenizer: Tokenizer) -> None:
    """Holds a tokenizer that is to be trained to the signatures of the module that trains it."""
    if tokenizer.train is None:
        return
    name = trainer_name(tokenizer.kind)
    check_options(field, member_of(field, name, "untrained"), tokenizer.options)
    try:
        build(f"{field}.train", member_of(field, name, "Training"), tokenizer.train)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(field) else f"{field}.train.{message}") from None


def complaint(error: Mapping[str, Any], allowed: Iterable[str]) -> str:
    """What one of pydantic's errors says about the field before it."""
    kind, got = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return _unknown(error["loc"][-1], allowed)
    if kind == "missing":
        return "is missing; give it a value"
    if kind in ("model_type", "model_attributes_type"):
        return f"should be names with their values, got {got!r}"
    expected = error["msg"].replace("Input should", "should").replace("\n", " ")
    expected = expected.replace("an instance of Sequence", "a list")
    return f"{expected}, got {got!r}"


def _unknown(name: Any, allowed: Iterable[str]) -> str:
    """What to say instead of a name that is not known: ours for another trainer's, or the nearest."""
    ours = ELSEWHERE.get(name, "")
    remedy = f"; say {ours}" if ours in {*allowed} else nearest(name, allowed)
    return f"is not known{remedy}"
