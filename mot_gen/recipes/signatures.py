"""What a class or function can be called with, read from its source and not by importing it: stated_types,
tokenizer_in.

Most modules that a recipe names import torch, which takes seconds. A misspelt option need not wait for that.
"""

from __future__ import annotations

import ast
import collections.abc
import importlib.util
import typing
from functools import cache
from pathlib import Path
from typing import Any

Types = dict[str, Any]
Definition = ast.ClassDef | ast.FunctionDef
_OF_TYPES = {"typing": typing, "collections.abc": collections.abc}  # whose names annotations may use


def stated_types(module: str, name: str) -> Types | None:
    """Parameter -> type of `name` in a module: a class, a function, or `Class.method`. Types that are not of Python's
    own are Any. None where the source alone does not tell: it is not there, or takes names that it does not list."""
    class_name, _, method = name.partition(".")
    module, found = _home(module, class_name)
    if method:
        found = _method(found, method)
    if isinstance(found, ast.FunctionDef):
        return _parameters(found, _source(module).types)
    if isinstance(found, ast.ClassDef):
        return _of_class(module, found)
    return None


def tokenizer_in(module: str) -> str | None:
    """The name of the one tokenizer that a module defines; None where it is not one."""
    definitions = _source(module).definitions
    found = [name for name in definitions if name.endswith("Tokenizer") and isinstance(definitions[name], ast.ClassDef)]
    return found[0] if len(found) == 1 else None


# ---------------------------------------------------------------- a module


class _Source:
    """What a module's source says.

    definitions: its classes and functions, by name.
    imports: name -> the module that it is imported from, and its name there.
    types: the names of types that it imports from where Python keeps them.
    """

    def __init__(self, text: str):
        self.definitions: dict[str, Definition] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self.types: Types = {}
        for statement in ast.parse(text).body:
            if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
                self.definitions.setdefault(statement.name, statement)
            elif isinstance(statement, ast.ImportFrom) and not statement.level:
                self._read_import(str(statement.module), statement.names)

    def _read_import(self, module: str, names: list[ast.alias]) -> None:
        for alias in names:
            own = alias.asname or alias.name
            self.imports.setdefault(own, (module, alias.name))
            if module in _OF_TYPES:
                self.types[own] = getattr(_OF_TYPES[module], alias.name, Any)


def _source(module: str) -> _Source:
    """The source of a module; empty for one that has none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # of a package above it
        spec = None
    origin = Path(getattr(spec, "origin", None) or "")
    return _parsed(origin.read_text("utf-8") if origin.suffix == ".py" else "")


@cache
def _parsed(text: str) -> _Source:
    """By the text, since a file may change. Of a text that is no Python, nothing: its import will say so."""
    try:
        return _Source(text)
    except (SyntaxError, ValueError):
        return _Source("")


def _home(module: str, name: str) -> tuple[str, Definition | None]:
    """The module where a name that another has is defined, and its definition; None where it is not found."""
    source = _source(module)
    if name in source.definitions:
        return module, source.definitions[name]
    if name in source.imports:
        return _home(*source.imports[name])
    return module, None


# ---------------------------------------------------------------- a class or function


def _method(found: Definition | None, name: str) -> ast.FunctionDef | None:
    for member in getattr(found, "body", ()):
        if isinstance(member, ast.FunctionDef) and member.name == name:
            return member
    return None


def _of_class(module: str, found: ast.ClassDef) -> Types | None:
    """What a class is built with: the parameters of its `__init__`, or the fields of a dataclass and of its bases."""
    names = _source(module).types
    own = _method(found, "__init__")
    if own is not None:
        return _parameters(own, names)
    is_dataclass = "dataclass" in " ".join(map(ast.unparse, found.decorator_list))
    if not is_dataclass and not found.bases:
        return None
    types: Types = {}
    for base in found.bases:
        inherited = stated_types(module, ast.unparse(base))
        if inherited is None:
            return None
        types |= inherited
    if is_dataclass:
        types |= _fields(found, names)
    return types


def _fields(found: ast.ClassDef, names: Types) -> Types:
    """The fields of a dataclass that it is built with, without those of its bases."""
    types: Types = {}
    for member in found.body:
        if not isinstance(member, ast.AnnAssign):
            continue
        written = ast.unparse(member)
        if "ClassVar" not in written and "init=False" not in written:
            types[ast.unparse(member.target)] = _type(member.annotation, names)
    return types


def _parameters(call: ast.FunctionDef, names: Types) -> Types | None:
    if call.args.kwarg:
        return None
    listed = [*call.args.args, *call.args.kwonlyargs]
    types = {each.arg: _type(each.annotation, names) for each in listed}
    types.pop("self", None)
    types.pop("cls", None)
    return types


def _type(annotation: ast.expr | None, names: Types) -> Any:
    """The type that an annotation means, by Python's own names and these; Any for one that needs others."""
    if annotation is None:
        return Any
    try:
        found = eval(ast.unparse(annotation), dict(names))
    except (NameError, AttributeError, TypeError):
        return Any
    return Any if isinstance(found, str) else found  # a text names a type that is defined later
