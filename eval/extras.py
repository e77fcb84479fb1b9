"""require: an optional package, or the InputError that says how to install it."""

from __future__ import annotations

import importlib
from types import ModuleType

from mot_gen.errors import InputError


def require(module: str, metric: str, extra: str = "eval") -> ModuleType:
    """The imported module; InputError naming the metric and the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        raise InputError(f"{metric}: package {err.name!r} is not installed; pip install 'mot-gen[{extra}]'") from err
