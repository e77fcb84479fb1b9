"""What `mot-gen data validate` and `stats` look at: opened, Opened, refused, drawn."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from mot_gen.data.notices import NAMED
from mot_gen.data.records import open_all
from mot_gen.data.samples import Sample, Splits
from mot_gen.data.sources import NoRecord
from mot_gen.errors import InputError

if TYPE_CHECKING:  # a recipe brings torch along, which records alone do without
    from mot_gen.recipes.recipe import Recipe

PLACES = ("data.records", "data.held_out_records")

__all__ = ["NAMED", "Opened", "drawn", "opened", "refused"]


@dataclass(frozen=True)
class Opened:
    """sets: "train" and "held_out" of a recipe, or all "records"."""

    sets: dict[str, Sequence[Sample]]
    recipe: Recipe | None = None

    @property
    def splits(self) -> Splits:
        """The sets of a recipe."""
        return Splits(self.sets["train"], self.sets["held_out"])


def opened(name: str, more: Sequence[str]) -> Opened:
    """The sets of a recipe and its KEY=VALUE, or of several files and folders of records.

    InputError where nothing can be read. Records that cannot be read are left out, and counted by the sets.
    """
    if is_recipe(name):
        check_places(_given_places(more))
        from mot_gen.recipes.recipe import load_recipe

        recipe = load_recipe(name, more)
        if recipe.data.records:
            check_places([*(records.path for records in recipe.data.records), *recipe.data.held_out_records])
        from mot_gen.training.build import load_splits  # which brings the model's code along
        from mot_gen.training.defaults import settled

        splits = load_splits(recipe)
        recipe = settled(recipe, splits, Path("runs"), lambda line: print(line, file=sys.stderr))
        return Opened({"train": splits.train, "held_out": splits.held_out}, recipe)
    for text in more:
        if "=" in text and not Path(text).exists():
            raise InputError(
                f"{text}: KEY=VALUE changes a recipe, and {name} is none; give its name or its .yaml first"
            )
    return Opened({"records": open_all([name, *more])})


def _given_places(overrides: Sequence[str]) -> list[str]:
    """The single paths among a recipe's KEY=VALUE; lists are looked at when the recipe is read."""
    found = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key in PLACES and value and value[0] not in "[{\"'":
            found.append(value)
    return found


def check_places(names: Sequence[str]) -> None:
    """InputError where a local file or folder is not there, before anything heavy is imported."""
    for name in names:
        if "://" not in name and not Path(name).exists():
            raise InputError(f"{name}: no such file or folder (data.records)")


def is_recipe(name: str) -> bool:
    """Whether a name is that of a recipe: a YAML file or a shipped one."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return True
    if path.suffix or "/" in name:
        return False
    return (files("mot_gen.recipes") / f"{name}.yaml").is_file()


def refused(error: InputError) -> list[str]:
    """The records that cannot be read, each in a line, where there is no other in their file."""
    return error.broken.samples if isinstance(error, NoRecord) else []


def drawn(count: int, limit: int) -> Sequence[int]:
    """All of `count` indices, or `limit` of them at random, always the same, in their order."""
    if not limit or limit >= count:
        return range(count)
    return sorted(random.Random(0).sample(range(count), limit))
