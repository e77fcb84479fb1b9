"""What a command refuses before torch is imported, which takes seconds: refuse_missing, check_run.

The libraries check all of this again, and more; here only what a look at the file system shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mot_gen import checkpoints
from mot_gen.errors import InputError

if TYPE_CHECKING:
    from mot_gen.recipes.recipe import Recipe

PATTERNS = "*?[{"  # in a path that stands for many files


def refuse_missing(paths: Iterable[str | Path | None], what: str = "") -> None:
    """InputError for the first path where nothing is; None stands for one that was not given. what: said behind it."""
    for path in paths:
        if path is not None and not Path(path).exists():
            raise InputError(f"{path}: no such file or folder{what}")


def check_run(recipe: Recipe, out: Path | None = None) -> None:
    """InputError where a recipe's records or the model that it begins with are not there, or a run cannot be written to
    `out`."""
    given = [records.path for records in recipe.data.records if _is_one_path(records.path)]
    refuse_missing(given, " (data.records)")
    init = recipe.training.init
    if init and not _is_there(init):
        raise InputError(f"training.init: {init} holds no model; {_remedy(recipe.name, init)}")
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out}: cannot be written to: File exists")


def _remedy(name: str, init: str) -> str:
    """What to do where a model to begin with is not there: the command that makes it, where a shipped recipe's first
    lines say it."""
    from mot_gen.recipes.yaml_files import read_recipe, shipped  # which the commands without a recipe do not need

    elsewhere = "give the folder of a run, or of its model"
    if name not in shipped():
        return elsewhere
    for line in read_recipe(name).splitlines():
        if line.startswith("#") and line.endswith(f"--out {init}"):
            return f"make it with: {line.lstrip('# ')}"
    return elsewhere


def _is_there(model: str) -> bool:
    """Whether a path or a shipped name stands for a model."""
    return Path(model).exists() or model in checkpoints.names()


def _is_one_path(path: str) -> bool:
    """Whether a path names one place of this machine: neither a pattern nor an address."""
    return "://" not in path and not any(letter in path for letter in PATTERNS)
