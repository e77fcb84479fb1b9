"""The YAML of recipes: parse_yaml, read_mapping, read_recipe, shipped_recipes."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import lru_cache
from importlib import resources
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from mot_gen.errors import InputError, cause, nearest, require

NO_MAPPING = "a recipe is a mapping with name, data, tokenizers, ..."


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as everywhere else, and a key given twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. `source` begins the error."""
    try:
        return deepcopy(_load(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{source}:{line} not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise InputError(f"{source}: not valid YAML: it is nested too deep") from None
    except ValueError as error:  # a date or a number that is none
        raise InputError(f"{source}: not valid YAML: {error}; put the value in quotes if it is text") from None


@lru_cache(maxsize=64)
def _load(text: str) -> Any:
    """Kept, since a process may read a recipe many times, and a copy takes a twentieth of the time."""
    return yaml.load(text, _Loader)


def read_mapping(path: Path) -> dict[str, Any]:
    """What a recipe's file says, before any of it is checked or imported; InputError unless it is a mapping."""
    raw = parse_yaml(read_recipe(path), str(path))
    require(isinstance(raw, dict), f"{path}: {NO_MAPPING}, got {type(raw).__name__}")
    return raw


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("mot_gen.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_recipe(name_or_path: str | Path) -> str:
    """The text of a YAML file, or of a shipped recipe by its name."""
    path = Path(name_or_path)
    try:
        if path.suffix in (".yaml", ".yml"):
            return path.read_text(encoding="utf-8")
        return resources.files("mot_gen.recipes").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(_not_found(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the recipe: {cause(error)}") from None


def _not_found(path: Path) -> str:
    if (path / "recipe.yaml").is_file():
        return f"{path}: is the folder of a run or a model; give its recipe: {path / 'recipe.yaml'}"
    if path.exists():
        return f"{path}: is no recipe; records are given to one: mot-gen train pairs {quote(f'data.records={path}')}"
    if path.suffix:
        return f"{path}: no such recipe file"
    known = nearest(str(path), shipped_recipes())
    return f"recipe {str(path)!r} is not shipped{known}; a recipe of your own is a file that ends in .yaml"
