"""What a class or function can be called with, read from its source and not by importing it: stated, tokenizer_in.

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
_OF_TYPES = {"typing": typing, "collections.abc": collections.abc}  # whose names annotations may use


def stated(module: str, name: str) -> Types | None:
    """Parameter -> type of `name` in a module: a class, a function, or `Class.method`. Types that are not of Python's
    own are Any. None where the source alone does not tell: it is not there, or takes names that it does not list."""
    class_name, _, method = name.partition(".")
    module, found = _home(module, class_name)
    if method:
        found = _member(found, method)
    if isinstance(found, ast.FunctionDef):
        return _parameters(found, _names(module))
    if isinstance(found, ast.ClassDef):
        return _of_class(module, found)
    return None


def tokenizer_in(module: str) -> str | None:
    """The name of the one tokenizer that a module defines; None where it is not one."""
    classes = [each.name for each in _tree(module).body if isinstance(each, ast.ClassDef)]
    found = [name for name in classes if name.endswith("Tokenizer")]
    return found[0] if len(found) == 1 else None


def _tree(module: str) -> ast.Module:
    """The source of a module, parsed; empty for one that has no source."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # of a package above it
        spec = None
    origin = Path(spec.origin or "") if spec else Path()
    return _parsed(origin.read_text("utf-8") if origin.suffix == ".py" else "")


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _home(module: str, name: str) -> tuple[str, ast.stmt | None]:
    """The module where a name that another has is defined, and its definition; None where it is not found."""
    for statement in _tree(module).body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)) and statement.name == name:
            return module, statement
        if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return _home(statement.module, alias.name)
    return module, None


def _member(found: ast.stmt | None, name: str) -> ast.stmt | None:
    for member in getattr(found, "body", ()):
        if isinstance(member, ast.FunctionDef) and member.name == name:
            return member
    return None


def _of_class(module: str, found: ast.ClassDef) -> Types | None:
    """What a class is built with: the parameters of its `__init__`, or the fields of a dataclass and of its bases."""
    own = _member(found, "__init__")
    if isinstance(own, ast.FunctionDef):
        return _parameters(own, _names(module))
    is_dataclass = any("dataclass" in ast.unparse(each) for each in found.decorator_list)
    if not is_dataclass and not found.bases:
        return None
    types: Types = {}
    for base in found.bases:
        inherited = stated(module, ast.unparse(base))
        if inherited is None:
            return None
        types |= inherited
    return types | _fields(found, _names(module)) if is_dataclass else types


def _names(module: str) -> Types:
    """The names of types that a module imports from where Python keeps them."""
    found: Types = {}
    for statement in _tree(module).body:
        if isinstance(statement, ast.ImportFrom) and statement.module in _OF_TYPES:
            home = _OF_TYPES[statement.module]
            found |= {alias.asname or alias.name: getattr(home, alias.name, Any) for alias in statement.names}
    return found


def _fields(found: ast.ClassDef, names: Types) -> Types:
    """The fields of a dataclass, without those of its bases."""
    types: Types = {}
    for member in found.body:
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            written = ast.unparse(member.annotation)
            if "ClassVar" not in written and "init=False" not in ast.unparse(member.value or ast.Constant(None)):
                types[member.target.id] = _type(member.annotation, names)
    return types


def _parameters(call: ast.FunctionDef, names: Types) -> Types | None:
    if call.args.kwarg:
        return None
    listed = [*call.args.args, *call.args.kwonlyargs]
    return {each.arg: _type(each.annotation, names) for each in listed if each.arg not in ("self", "cls")}


def _type(annotation: ast.expr | None, names: Types) -> Any:
    """The type that an annotation means, by Python's own names and these; Any for one that needs others."""
    if annotation is None:
        return Any
    try:
        found = eval(ast.unparse(annotation), dict(names))
    except (NameError, AttributeError, TypeError):
        return Any
    return Any if isinstance(found, str) else found  # a text names a type that is defined later
