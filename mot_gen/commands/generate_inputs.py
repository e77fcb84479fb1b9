"""What `mot-gen generate` is given, as items: Request, Item, items_of.

An item is one prompt, picture or recording, or a record of a `.jsonl` file that joins them; a folder gives an item a
file. What is wrong with one item is kept in it, so that the others can go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mot_gen.errors import InputError, nearest
from mot_gen.files.suffixes import PICTURES, SOUNDS
from mot_gen.pipelines.directions import INPUTS, OPTIONS

SUFFIXES = {"image": PICTURES, "audio": SOUNDS, "mask": PICTURES}


@dataclass(frozen=True)
class Request:
    """One call of the command. options: of `directions.OPTIONS`, those that were given; the others are the
    checkpoint's own defaults. image, mask, audio: files and folders. records: a .jsonl file. dtype: of
    `checkpoints.DTYPES`. compile: whether torch.compile makes the blocks' programs first. weights: how they are held,
    see `pipelines.held_model`."""

    to: str
    prompt: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    records: str | None = None
    out: str | None = None
    num: int = 1
    seed: int = 0
    batch_size: int = 16
    max_failures: int = 10
    redo: bool = False
    dtype: str = "fp32"
    compile: bool = False
    weights: str = "memory"
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        for name, least in (("num", 1), ("batch_size", 1), ("max_failures", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Item:
    """name: of what is written for it, "" for a lone prompt. where: for messages. error: what is wrong with it."""

    name: str
    where: str
    inputs: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    options: dict = field(default_factory=dict)
    error: str | None = None


def items_of(request: Request) -> list[Item]:
    """All items of a request, in order. InputError for what concerns all of them."""
    items = list(_records(request) if request.records else _listed(request))
    if not items:
        raise InputError(f"{request.records or 'the input'}: holds nothing to generate from")
    return items


# ---------------------------------------------------------------- prompts, files and folders


def _listed(request: Request) -> Iterator[Item]:
    """Items of the command line: what is given once goes with each of what is given many times."""
    given = {"prompt": list(request.prompt)}
    given |= {kind: list(_files(kind, getattr(request, kind))) for kind in SUFFIXES}
    given = {name: values for name, values in given.items() if values}
    many = {name: len(values) for name, values in given.items() if len(values) > 1}
    if len(set(many.values())) > 1 or ("prompt" in many and len(many) > 1):
        counts = " and ".join(f"{count} of --{name}" for name, count in many.items())
        raise InputError(f"{counts} do not pair by themselves; say which belong together in a file, with --records")
    for number, name in enumerate(_names(given, max(many.values(), default=1))):
        inputs = {kind: values[number if kind in many else 0] for kind, values in given.items()}
        where = inputs["prompt"] if many.keys() == {"prompt"} else inputs.get("image") or inputs.get("audio") or ""
        # With several samples of each input no two share a seed. With one of each, all have the seed that was given.
        seed = request.seed + (number * request.num if request.num > 1 else 0)
        yield Item(name, where, inputs, seed, request.options)


def _files(kind: str, paths: tuple[str, ...]) -> Iterator[str]:
    """Files as they are; of a folder, those of this kind, by name."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield str(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES[kind])
        if not inside:
            raise InputError(f"--{kind} {path}: holds no {kind}; it may be {', '.join(sorted(SUFFIXES[kind]))}")
        yield from map(str, inside)


def _names(given: dict[str, list[str]], count: int) -> list[str]:
    """What the results of each item are called: as its file, or numbered; "" for a lone prompt."""
    files = next((given[kind] for kind in ("image", "audio") if len(given.get(kind, ())) == count), None)
    if files is None:
        return [""] if count == 1 else [f"{number:04d}" for number in range(count)]
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == count else [f"{number:04d}-{stem}" for number, stem in enumerate(stems)]


# ---------------------------------------------------------------- records


def _records(request: Request) -> Iterator[Item]:
    """An item a line: a prompt as a JSON string, or an object with `id`, inputs, `seed` and options."""
    assert request.records is not None
    path = Path(request.records)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--records {path}: cannot be read: {error}") from error
    seen: set[str] = set()
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        item = Item(f"{number:04d}", f"{path}, line {number + 1}", seed=request.seed, options=request.options)
        try:
            item = _from_record(_record(line), item, request, path.parent)
            if item.name in seen:
                raise InputError(f"id {item.name!r} is that of an earlier line")
        except InputError as error:
            item = replace(item, error=str(error))
        seen.add(item.name)
        yield item


def _record(line: str) -> dict:
    try:
        record = json.loads(line)
    except RecursionError:
        raise InputError("is not JSON: nested too deep") from None
    except ValueError as error:
        raise InputError(f"is not JSON: {error}") from error
    record = {"prompt": record} if isinstance(record, str) else record
    if not isinstance(record, dict):
        raise InputError(f"must be an object or a text, got {line.strip():.40}")
    known = {"id", "seed", *INPUTS, *OPTIONS}
    for key, value in record.items():
        if key not in known:
            raise InputError(f"{key!r} is not known" + nearest(key, known))
        kind = OPTIONS.get(key, int if key == "seed" else str)
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits or (key == "seed" and value < 0):
            raise InputError(f"{key} must be {'a text' if kind is str else 'a number'}, got {value!r:.40}")
    return record


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8 and stand in a file: no lone surrogates, no NUL."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def shown(value: str) -> str:
    """A string as it can be printed, what is no text in it as \\udcff."""
    return value.encode("utf-8", "backslashreplace").decode()


def is_file_name(name: str) -> bool:
    """Whether a file in a folder can have this name, with a number and a suffix behind it."""
    hidden = not name or name.startswith(".")
    return not hidden and is_text(name) and Path(name).name == name and len(name.encode()) <= 200


def _from_record(record: dict, item: Item, request: Request, folder: Path) -> Item:
    """The record's own values before those of the command line; its paths are relative to its file."""
    name = record.get("id", item.name)
    if not is_file_name(name):
        raise InputError(f"id {name!r:.80} cannot be the name of a file")
    inputs = {kind: values[0] for kind in INPUTS if (values := getattr(request, kind))}
    inputs |= {kind: str(folder / record[kind]) for kind in SUFFIXES if kind in record}
    inputs |= {"prompt": record["prompt"]} if "prompt" in record else {}
    options = item.options | {key: value for key, value in record.items() if key in OPTIONS}
    return replace(item, name=name, inputs=inputs, seed=record.get("seed", item.seed), options=options)
