"""Modules that a recipe or a command names, a user's own among them: exists, imported, not_found, check_method.

A module of a user's own may be missing, or fail when it is imported. Either is said in one line, and so is a
method that takes other arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from mot_gen.errors import InputError, nearest

_PYTHON = sysconfig.get_path("stdlib")  # the folder of Python's own modules
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")  # find_spec raises all sorts of errors for other names


def exists(field: str, name: str) -> bool:
    """Whether there is a module of this name. InputError where a package above it fails. field: where it is named."""
    if not _DOTTED.fullmatch(name):
        return False
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            return False
        raise _failed(field, name, error) from error
    except Exception as error:
        raise _failed(field, name, error) from error


def imported(field: str, name: str) -> ModuleType:
    """The module; InputError that says where in it the import failed."""
    try:
        return importlib.import_module(name)
    except InputError:
        raise
    except Exception as error:  # a module of a user's own may raise anything
        raise _failed(field, name, error) from error


def _failed(field: str, name: str, error: Exception) -> InputError:
    return InputError(f"{field}: module {name} cannot be imported: {_place(error)}{_said(error)}")


def _said(error: Exception) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    remedy = "; install it, or name its folder in PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
    return f"{type(error).__name__}: {said}{remedy}"


def _place(error: Exception) -> str:
    """The file and line where an import failed: the last that belongs to no installed package."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if _is_own(each.filename) and each.filename != __file__]
    return f"{own[-1].filename}:{own[-1].lineno}: " if own else ""


def _is_own(file: str) -> bool:
    """Whether a file is neither of Python nor of an installed package."""
    return not file.startswith(("<frozen", _PYTHON)) and "site-packages" not in file


def check_method(own: Any, method: Any, what: str) -> None:
    """InputError where a method cannot be called with the arguments of the one that it overrides. what: how messages
    name it."""
    if own is method or not inspect.isfunction(own):
        return
    names = [*inspect.signature(method).parameters]
    try:
        inspect.signature(own).bind(*names)
    except TypeError:
        raise InputError(f"{what}{inspect.signature(own)} must take ({', '.join(names)})") from None


def not_found(kind: str, known: Iterable[str]) -> str:
    """What may help where `kind` names no module: the nearest of the `known` kinds, or how one's own is named."""
    if not re.search(r"[./:]", kind):
        return _without_folder(kind) or nearest(kind, known)
    parts = re.split(r"[./:]", kind.removesuffix(".py"))
    for end in range(len(parts), 1, -1):
        name = ".".join(parts[:end])
        if name != kind and exists(kind, name):
            return f"; did you mean {name!r}?"
    return "; a module of your own is named by a dotted path that begins in a folder of PYTHONPATH"


def _without_folder(kind: str) -> str:
    """How to name a module of a user's own that lies in no package, whose name has no dot; "" where it is none."""
    if kind in sys.stdlib_module_names or not _DOTTED.fullmatch(kind):
        return ""
    spec = importlib.util.find_spec(kind)
    file = spec.origin if spec else None
    if not file or not _is_own(file):
        return ""
    return f"; a module of your own is named by a dotted path: move {file} into a folder, and say FOLDER.{kind}"
