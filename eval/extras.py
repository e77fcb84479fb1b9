"""What users and other packages bring: `extra_module` imports an optional package, `find_named` finds a function of the
user's own, `facts_of` says what is known of a model, `from_options` reads options by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any, TypeVar

from mot_gen.errors import InputError, nearest, require

T = TypeVar("T")


def extra_module(module: str, metric: str, extra: str = "eval") -> ModuleType:
    """The imported module; InputError naming the metric and the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        raise InputError(f"{metric}: package {err.name!r} is not installed; pip install 'mot-gen[{extra}]'") from err


def find_named(target: str, what: str) -> Any:
    """What "package.module:NAME" names; InputError where there is no such thing."""
    module, _, name = target.partition(":")
    require(name, f"{what} {target}: neither a folder with a config.json nor module:function; give one")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as err:
        raise InputError(f"{what} {target}: cannot be loaded ({err}); check the name") from err


def facts_of(model: Any, field: str) -> dict[str, str]:
    """What a model or a function says of itself, for signatures; else its name, under this field."""
    if hasattr(model, "provenance"):
        return model.provenance()
    return {field: getattr(model, "__name__", type(model).__name__)}


def from_options(kind: type[T], options: Mapping[str, Any]) -> T:
    """A dataclass of options by name; InputError for one that it does not have."""
    whole: Any = kind
    known = [one.name for one in fields(whole)]
    for name in options:
        if name not in known:
            raise InputError(f"option {name!r} is not known" + nearest(name, known))
    return kind(**options)
