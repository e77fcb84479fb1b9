"""All items that `mot-gen generate` is asked for, those of a file of records with them: items_of.

A line of the .jsonl file is a prompt as a JSON string, or an object with `id`, inputs, `seed` and options. Its own
values stand before those of the command line. Its paths are relative to the file, and lead to places in its folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mot_gen.commands.generate_inputs import SEEDS, SUFFIXES, Item, Request, is_file_name, list_items
from mot_gen.errors import InputError, cause, nearest, require
from mot_gen.files.safe_names import is_inside, refuse_url
from mot_gen.pipelines.directions import INPUTS, OPTIONS
from mot_gen.pipelines.settings import check

TYPES: dict[str, type] = {**OPTIONS, **dict.fromkeys(("id", *INPUTS), str), "seed": int}  # what a record may hold
CALLED = {"caption": "prompt", "text": "prompt", "file_name": "image"}  # what records of training call them


def items_of(request: Request) -> list[Item]:
    """All items of a request, in order. InputError for what concerns all of them."""
    found = _records(request) if request.records else list_items(request)
    items = list(found)
    require(items, f"{request.records or 'the input'}: holds nothing to generate from")
    return items


def _records(request: Request) -> Iterator[Item]:
    """An item for every line that is not empty; what is wrong with a line is kept in its item.

    InputError for a file that cannot be read."""
    assert request.records is not None
    path = Path(request.records)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--records {path}: cannot be read: {cause(error)}") from error
    seen: set[str] = set()
    for number, line in enumerate(lines):
        if line.strip():
            item = Item(f"{number:04d}", f"{path}, line {number + 1}", seed=request.seed, options=request.options)
            item = _item(line, item, request, seen)
            seen.add(item.name)
            yield item


def _item(line: str, item: Item, request: Request, seen: set[str]) -> Item:
    """The item with what its line says. seen: the names of earlier ones."""
    try:
        read = _from_record(_record(line), item, request)
        require(read.name not in seen, f"id {read.name!r} is that of an earlier line")
    except InputError as error:
        return replace(item, error=str(error))
    return read


def _record(line: str) -> dict:
    try:
        record = json.loads(line)
    except RecursionError:
        raise InputError("is not JSON: nested too deep") from None
    except ValueError as error:
        raise InputError(f"is not JSON: {error}; a prompt alone stands in quotes") from error
    if isinstance(record, str):
        record = {"prompt": record}
    if not isinstance(record, dict):
        raise InputError(f"must be an object or a text, got {line.strip():.40}")
    for key, value in record.items():
        _check(key, value)
    return record


def _check(key: str, value: Any) -> None:
    """InputError for a field that is not known, or whose value is of another type."""
    if key not in TYPES:
        raise InputError(f"{key!r} is not known" + nearest(CALLED.get(key, key), TYPES))
    kind = TYPES[key]
    if not _fits(value, kind) or (key == "seed" and not 0 <= value < SEEDS):
        raise InputError(f"{key} must be {_expected(key, kind)}, got {value!r:.40}")
    check(key, value)


def _expected(key: str, kind: type) -> str:
    """What a value should have been."""
    if key == "seed":
        return "a whole number below 2^63"
    return "a text" if kind is str else "a number"


def _fits(value: object, kind: type) -> bool:
    """Whether a value of JSON is of a type; a whole number is a float too, and true and false are no numbers."""
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float))
    return isinstance(value, kind)


def _from_record(record: dict, item: Item, request: Request) -> Item:
    name = record.get("id", item.name)
    require(is_file_name(name), f"id {name!r:.80} cannot be the name of a file")
    inputs = _common_inputs(request)
    folder = Path(str(request.records)).parent
    for kind in SUFFIXES:
        if kind in record:
            inputs[kind] = _path(kind, record[kind], folder, request.outside_media)
    if "prompt" in record:
        inputs["prompt"] = record["prompt"]
    own = {key: value for key, value in record.items() if key in OPTIONS}
    options = item.options | own
    return replace(item, name=name, inputs=inputs, seed=record.get("seed", item.seed), options=options)


def _path(kind: str, name: str, folder: Path, outside: bool) -> str:
    """The path of a file that a record names. outside: whether it may lie outside of the folder."""
    refuse_url(name)
    remedy = "move it there, or allow it with --outside-media"
    require(outside or is_inside(name, folder), f"{kind} {name:.200}: lies outside of the folder of the file; {remedy}")
    return str(folder / name)


def _common_inputs(request: Request) -> dict[str, str]:
    """The inputs of the command line that go with every record: the first of each kind."""
    given = {kind: getattr(request, kind) for kind in INPUTS}
    return {kind: values[0] for kind, values in given.items() if values}
