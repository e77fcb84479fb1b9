"""What `mot-gen data validate` and `stats` look at: opened, Opened, refused, drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mot_gen.corpora import foreign
from mot_gen.data.records import Sample, Splits, open_all, open_records, parse_record
from mot_gen.errors import InputError
from mot_gen.recipes.recipe import Recipe, load_recipe, shipped
from mot_gen.training.build import load_splits

NAMED = 1000  # records that are named, where there are more


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
    """name: a recipe, more: its KEY=VALUE; or both records. InputError where training would refuse them."""
    if name in shipped() or Path(name).suffix in (".yaml", ".yml"):
        recipe = load_recipe(name, more)
        splits = load_splits(recipe)
        return Opened({"train": splits.train, "held_out": splits.held_out}, recipe)
    for text in more:
        if "=" in text and not Path(text).exists():
            raise InputError(
                f"{text}: KEY=VALUE changes a recipe, and {name} is none; give its name or its .yaml first"
            )
    return Opened({"records": open_all([name, *more])})


def refused(name: str, more: Sequence[str]) -> list[str]:
    """Each record that training refuses to begin with, by file and line; `opened` stops at the first of them."""
    paths = [name, *more]
    if name in shipped() or Path(name).suffix in (".yaml", ".yml"):
        data = load_recipe(name, more).data
        paths = [*(records.path for records in data.records), *data.held_out_records]
    return [line for path in paths for line in _refused(path)]


def _refused(path: str) -> list[str]:
    try:
        open_records(path)
        return []
    except InputError as error:
        return list(islice(_refused_rows(Path(path)), NAMED)) or [str(error)]


def _refused_rows(path: Path) -> Iterator[str]:
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".parquet") or not path.is_file():
        return
    for row in foreign.rows(path):
        fields = {k: v for k, v in row.fields.items() if v is not None or path.suffix.lower() != ".parquet"}
        try:
            if row.error:
                raise InputError(f"{row.where}: {row.error}")
            parse_record(fields, row.where, row.id, lambda value, field: value)
        except InputError as error:
            yield str(error)


def drawn(count: int, limit: int) -> Sequence[int]:
    """All of `count` indices, or `limit` of them at random, always the same, in their order."""
    return range(count) if not limit or limit >= count else sorted(random.Random(0).sample(range(count), limit))
