"""Checks that are made before torch is imported, which takes seconds: refuse_early.

Much of what a recipe or a command asks for is refused by modules that import torch, though the check itself needs none
of it. `refuse_early` runs such a check in a child process in which torch, and the libraries that stand on it, are
absent: their modules can be imported and hold anything, and nothing can be decided by what they hold. So whatever the
check refuses was refused without them, in the very words in which it would be refused later. A check that comes to
need them ends there, and is made again when they are imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from inspect import get_annotations
from types import FunctionType, ModuleType
from typing import Any, NoReturn

from mot_gen.errors import InputError

ABSENT = ("torch", "torchaudio", "torchmetrics", "torchvision", "diffusers", "transformers", "safetensors", "peft")
# Methods that would decide something by what is absent, or make a number or a text of it.
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "contains", "subclasscheck")
CONVERSIONS = ("bool", "len", "iter", "next", "index", "int", "float", "str", "repr", "format", "fspath")
# Methods whose result is as absent as what they are given.
ARITHMETIC = ("or", "ror", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg")


def refuse_early(*checks: Callable[[], object]) -> None:
    """Raise the first InputError of these checks that can be raised without torch. Where torch is imported already, or
    the system cannot fork, nothing is done."""
    if "torch" in sys.modules or not hasattr(os, "fork"):
        return
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _tell(checks, writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as told:
        message = told.read()
    os.waitpid(child, 0)
    if message:
        raise InputError(message)


def _tell(checks: Sequence[Callable[[], object]], writer: int) -> NoReturn:
    """In the child: write what is refused, and end. Nothing else may be written, nor done at exit."""
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)
        sys.meta_path.insert(0, Finder())
        os.write(writer, _refusal(checks).encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _refusal(checks: Sequence[Callable[[], object]]) -> str:
    """The message of the first check that refuses; empty where none does, or none can tell."""
    for check in checks:
        try:
            check()
        except InputError as refused:
            return str(refused)
        except BaseException:  # CannotTell, or an error that follows from what is absent: the check is made again later
            continue
    return ""


class CannotTell(BaseException):
    """The check needs what is absent. No `except Exception` may take it for an error of its own."""


class Finder(MetaPathFinder, Loader):
    """Finds every module of the absent packages: an empty one."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in ABSENT:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _attribute(name)


def _attribute(name: str) -> _Anything:
    """Anything, but for the names by which Python itself asks what something is."""
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name)


class _Anything:
    """What an absent module holds. It has every attribute, can be called, and leaves what it decorates as it is."""

    def __init__(self, name: str = "anything"):
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        return _attribute(name)

    def __call__(self, *given: Any, **named: Any) -> Any:
        decorates = len(given) == 1 and not named and isinstance(given[0], (FunctionType, type))
        return given[0] if decorates else _Anything()

    def __getitem__(self, key: Any) -> Any:
        return _Anything()

    def __instancecheck__(self, value: object) -> bool:
        """As a class: what is there cannot be one of its instances."""
        if isinstance(value, (_Anything, _Bare)):
            raise CannotTell
        return False

    def __enter__(self) -> Any:
        return _Anything()

    def __exit__(self, *error: object) -> None:
        """As `with torch.no_grad()`."""

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """As a base of a class: `_Bare`, once."""
        others = [base for base in bases if isinstance(base, type)]
        absent = [base for base in bases if type(base) is _Anything]
        bare = absent[0] is self and not any(issubclass(base, _Bare) for base in others)
        return (_Bare,) if bare else ()

    __hash__ = object.__hash__


def _undecided(*given: Any) -> NoReturn:
    raise CannotTell


def _combined(*given: Any) -> Any:
    return _Anything()


for _names, _method in ((COMPARISONS + CONVERSIONS, _undecided), (ARITHMETIC, _combined)):
    for _name in _names:
        setattr(_Anything, f"__{_name}__", _method)


class _BareType(type):
    def __getattr__(cls, name: str) -> Any:
        is_field = name in get_annotations(cls)  # of a dataclass, without a default
        raise AttributeError(name) if is_field or name.startswith("_") else CannotTell


class _Bare(metaclass=_BareType):
    """A class whose base is absent: it has what it states itself."""

    def __init__(self, *given: Any, **named: Any):
        """As the absent one would, without what it would do."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("_") else CannotTell
