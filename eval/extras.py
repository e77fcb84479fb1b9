"""What is not ours: `extra_module` imports an optional package, `named` finds a function of the user's own."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from mot_gen.errors import InputError, require


def extra_module(module: str, metric: str, extra: str = "eval") -> ModuleType:
    """The imported module; InputError naming the metric and the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        raise InputError(f"{metric}: package {err.name!r} is not installed; pip install 'mot-gen[{extra}]'") from err


def named(target: str, what: str) -> Any:
    """What "package.module:NAME" names; InputError where there is no such thing."""
    module, _, name = target.partition(":")
    require(name, f"{what} {target}: neither a folder with a config.json nor module:function; give one")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as err:
        raise InputError(f"{what} {target}: cannot be loaded ({err}); check the name") from err
