"""How a recipe names the parts of a block: ROLES, kinds, read_pattern, read_part.

A recipe names a part by its file, by `{kind: file, option: value}`, or names several in a list, which layers take in
turn. A file stands in its role's folder, or in a package of your own.

An option of a mixer, a feed-forward or a router that has the name of a field of the backbone's `Config` takes the value
of that field unless it is given.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mot_gen.backbone import parts
from mot_gen.backbone.parts import Part
from mot_gen.errors import InputError, nearest, require
from mot_gen.files.own_modules import check_method, exists, imported, not_found


class Role(NamedTuple):
    """Where the parts of a kind are found.

    package: the folder of the parts that are shipped. member: the class that each file has. needs: what that class has
    to define, one name of each group.
    """

    package: str
    member: str
    needs: Sequence[Sequence[str]] = ()


ROLES = {
    "mixer": Role("mot_gen.backbone.mixers", "Mixer", [["forward"], ["cache"]]),
    "reach": Role("mot_gen.backbone.reaches", "Reach", [["sees"]]),
    "bias": Role("mot_gen.backbone.biases", "Bias", [["scores", "attend", "empty"]]),
    "head_choice": Role("mot_gen.backbone.head_choices", "HeadChoice", [["weigh"]]),
    "feed_forward": Role("mot_gen.backbone.feed_forwards", "FeedForward", [["unit", "forward"]]),
    "activation": Role("mot_gen.backbone.activations", "Activation", [["function", "module"]]),
    "router": Role("mot_gen.backbone.routers", "Router", [["choose"]]),
    "norm": Role("mot_gen.backbone.norms", "Norm", [["before", "after"]]),
    "depth": Role("mot_gen.backbone.depths", "Depth", [["forward"]]),
    "residual": Role("mot_gen.backbone.residuals", "Residual", [["add"]]),
}


SHARING = ("mixer", "feed_forward", "router")  # roles whose parts' options may be fields of the `Config`


def kinds(role: str) -> list[str]:
    """The parts of a role that are shipped."""
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(ROLES[role].package).__path__)]


def read_pattern(role: str, given: Any, config: Mapping[str, Any]) -> list[Any]:
    """The parts that a recipe names for a role, to be taken in turn by layer. config: the backbone's flat fields."""
    named = given if isinstance(given, list) else [given]
    if not named:
        raise InputError(f"backbone.{role}: an empty list names nothing; give a kind")
    return [read_part(role, each, config, f"backbone.{role}") for each in named]


def read_part(role: str, given: Any, config: Mapping[str, Any], where: str) -> Any:
    """One part, of a kind or of {kind, options}; a part as it is. InputError for what is unknown or no option."""
    if isinstance(given, Part):
        return given
    kind, own = _kind_and_options(given, where)
    cls = _class_of(role, kind, where)
    names = _option_names(cls)
    _check_options(cls, own, names, where)
    flat = _flat_fields(config, names, own) if role in SHARING else {}
    stated = {name: value for name, value in flat.items() if value is not None}
    for each in fields(cls):
        known = _has_default(each) or each.name in own or each.name in stated
        require(known, f"{where}.{each.name} has no default; give it a value")
    return cls(**own, **stated, where=where, flat=frozenset(flat))


def _has_default(option: Field) -> bool:
    return option.default is not MISSING or option.default_factory is not MISSING


def _option_names(cls: type[Any]) -> list[str]:
    """The fields of a part that a recipe may give: not those that this file fills in."""
    names = [each.name for each in fields(cls) if each.init]
    return [name for name in names if name not in ("where", "flat")]


def _kind_and_options(given: Any, where: str) -> tuple[str, dict[str, Any]]:
    """A part's kind and its own options, of a kind or of {kind, options}."""
    options = {"kind": given} if isinstance(given, str) else given
    if not isinstance(options, Mapping) or not isinstance(options.get("kind"), str):
        raise InputError(f"{where}: should be a kind, or a kind with its options, got {given!r}")
    own = dict(options)
    return own.pop("kind"), own


def _flat_fields(config: Mapping[str, Any], names: Sequence[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `Config` that a part's options take over: those of `names` that are not given as its own."""
    shared = [name for name in names if name in config]
    return {name: config[name] for name in shared if name not in own}


def _class_of(role: str, kind: str, where: str) -> type:
    package, member, _ = ROLES[role]
    name = kind if "." in kind else f"{package}.{kind}"
    if not exists(where, name):
        raise InputError(f"{where}: {kind!r} is not known" + not_found(kind, kinds(role)))
    cls: Any = getattr(imported(where, name), member, None)
    require(cls, f"{where}: module {name} has no {member}")
    if "." in kind:
        _check_class(role, cls, f"{where}: {member} of {name}")
    return cls


def _check_class(role: str, cls: Any, what: str) -> None:
    """InputError for a part of a user's own that is no frozen dataclass of its role, lacks what one must define, or
    defines a method that takes other arguments. what: how messages name it."""
    _, member, needs = ROLES[role]
    base = getattr(parts, member)
    based = isinstance(cls, type) and issubclass(cls, base)
    require(based, f"{what} must be a class that is based on mot_gen.backbone.parts.{member}")
    made_by_fields = {"where", "flat"} <= inspect.signature(cls).parameters.keys()
    require(made_by_fields, f"{what} must not define __init__: its options are the fields of a frozen dataclass")
    for group in needs:
        defined = [name for name in group if getattr(cls, name, None) is not getattr(base, name, None)]
        require(defined, f"{what} must define {' or '.join(group)}; see mot_gen/backbone/parts.py")
    for name, method in inspect.getmembers(base, inspect.isfunction):
        if not name.startswith("__"):
            check_method(getattr(cls, name), method, f"{what}: {name}")


def _check_options(cls: type, options: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Hold options to the names and types of a part's fields."""
    for name, value in options.items():
        if name not in names:
            raise InputError(f"{where}.{name} is not known{_instead(cls, name, names)}")
        try:
            _type_of(cls, name).validate_python(value)
        except ValidationError as error:
            expected = error.errors(include_url=False)[0]["msg"].replace("Input should", "should")
            raise InputError(f"{where}.{name} {expected}, got {value!r}") from None


def _instead(cls: type, name: str, names: Sequence[str]) -> str:
    """What to say of an option that is no field of a part."""
    if name in vars(cls):
        return f": {cls.__name__} has it without a type, so it is no field; write {name}: TYPE = VALUE"
    return nearest(name, names)


@cache
def _type_of(cls: type, name: str) -> TypeAdapter:
    """What a field of a part must be."""
    try:
        stated = get_type_hints(cls)[name]
    except NameError:  # of a type that is imported for type checkers alone
        stated = Any
    return TypeAdapter(stated, config=ConfigDict(strict=True))
