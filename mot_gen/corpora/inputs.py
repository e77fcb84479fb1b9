"""The samples that `mot-gen data validate` and `stats` read: open_inputs, CorpusInputs, unreadable_lines,
sample_indices.
"""

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
    from mot_gen.recipes.recipe import Look, Recipe

__all__ = ["NAMED", "CorpusInputs", "open_inputs", "sample_indices", "unreadable_lines"]


@dataclass(frozen=True)
class CorpusInputs:
    """A corpus that was opened.

    sets: "train" and "held_out" of a recipe, or all "records".
    """

    sets: dict[str, Sequence[Sample]]
    recipe: Recipe | None = None

    @property
    def own(self) -> list[str]:
        """The sets with records of their own. What is held out may be a share of those that are trained on."""
        separate = self.recipe is not None and bool(self.recipe.data.held_out_records)
        shared = set() if separate else {"held_out"}
        return [name for name in self.sets if name not in shared]

    @property
    def splits(self) -> Splits:
        """The sets of a recipe."""
        return Splits(self.sets["train"], self.sets["held_out"])


def open_inputs(name: str, more: Sequence[str], outside_media: bool = False, first: Look | None = None) -> CorpusInputs:
    """The sets of a recipe and its KEY=VALUE, or of several files and folders of records.

    outside_media: whether records may name media outside of their folder. first: of a recipe, as for `load_recipe`.
    InputError where nothing can be read. Records that cannot be read are left out, and counted by the sets.
    """
    if is_recipe(name):
        return _of_recipe(name, [*more, *allow_outside_media(outside_media)], first)
    given = [text for text in more if "=" in text and not Path(text).exists()]
    if given:
        raise InputError(
            f"{given[0]}: KEY=VALUE changes a recipe, and {name} is none; give its name or its .yaml first"
        )
    check_places([name, *more])
    return CorpusInputs({"records": open_all([name, *more], outside_media)})


def _of_recipe(name: str, overrides: Sequence[str], first: Look | None) -> CorpusInputs:
    """The splits of a recipe."""
    from mot_gen.recipes.recipe import load_recipe

    recipe = load_recipe(name, overrides, first)
    from mot_gen.training.build import load_splits
    from mot_gen.training.defaults import settle

    splits = load_splits(recipe)
    recipe = settle(recipe, splits, Path("runs"), lambda line: print(line, file=sys.stderr))
    return CorpusInputs({"train": splits.train, "held_out": splits.held_out}, recipe)


def allow_outside_media(outside_media: bool) -> list[str]:
    """The KEY=VALUE by which a recipe is told that records may name media outside of their folder."""
    return ["data.outside_media=true"] if outside_media else []


def check_places(names: Sequence[str]) -> None:
    """InputError where a local file or folder is not there, before anything heavy is imported."""
    import difflib

    from mot_gen.recipes.yaml_files import shipped_recipes

    for name in names:
        if "://" in name or Path(name).expanduser().exists():
            continue
        close = difflib.get_close_matches(name, shipped_recipes(), n=1)
        meant = f"; did you mean the recipe {close[0]!r}?" if close else ""
        raise InputError(f"{name}: no such file or folder (data.records){meant}")


def is_recipe(name: str) -> bool:
    """Whether a name is that of a recipe: a YAML file or a shipped one."""
    if Path(name).suffix in (".yaml", ".yml"):
        return True
    return "/" not in name and (files("mot_gen.recipes") / f"{name}.yaml").is_file()


def unreadable_lines(error: InputError) -> list[str]:
    """The records that cannot be read, each in a line, where there is no other in their file."""
    return error.broken.samples if isinstance(error, NoRecord) else []


def sample_indices(count: int, limit: int) -> Sequence[int]:
    """All of `count` indices, or `limit` of them at random, always the same, in their order."""
    if not limit or limit >= count:
        return range(count)
    return sorted(random.Random(0).sample(range(count), limit))
