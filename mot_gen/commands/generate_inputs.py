"""What `mot-gen generate` is given on its command line: Request, Item, list_items.

An item is one prompt, picture or recording, or a record of a `.jsonl` file that joins them (generate_items); a folder
gives an item a file. What is wrong with one item is kept in it, so that the others can go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mot_gen.checkpoints.storage import check_storage
from mot_gen.errors import InputError, require
from mot_gen.files.suffixes import PICTURES, SOUNDS, find
from mot_gen.pipelines.directions import flag
from mot_gen.pipelines.settings import check

SUFFIXES = {"image": PICTURES, "audio": SOUNDS, "mask": PICTURES}
SEEDS = 2**63  # half of those that torch has, so that samples can count up from any
LEAST = {"num": 1, "batch_size": 1, "max_failures": 0, "seed": 0}


@dataclass(frozen=True)
class Request:
    """One call of the command.

    options: of `directions.OPTIONS`, those that were given; the others are the checkpoint's own defaults.
    image, mask, audio: files and folders.
    records: a .jsonl file.
    outside_media: whether it may name files outside of its folder.
    dtype: of `checkpoints.storage.DTYPES`.
    compile: whether torch.compile makes the blocks' programs first.
    weights: how they are held, see `pipelines.engine.held_model`.

    InputError for a number or an option that cannot be.
    """

    to: str
    prompt: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    records: str | None = None
    outside_media: bool = False
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
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{flag(name)} must be at least {least}, got {value}")
        require(self.seed < SEEDS, f"--seed must be below 2^63, got {self.seed}")
        check_storage(self.weights, self.dtype)
        for name, value in self.options.items():
            check(name, value)


@dataclass(frozen=True)
class Item:
    """One thing that is asked for.

    name: of what is written for it, "" for a lone prompt. where: for messages. error: what is wrong with it.
    """

    name: str
    where: str
    inputs: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    options: dict = field(default_factory=dict)
    error: str | None = None


def list_items(request: Request) -> Iterator[Item]:
    """Items of the command line: what is given once goes with each of what is given many times."""
    given = _inputs_given(request)
    many = {name for name, values in given.items() if len(values) > 1}
    count = _count(given, many)
    for number, name in enumerate(_names(given, count)):
        inputs = {kind: values[number % len(values)] for kind, values in given.items()}
        where = inputs["prompt"] if many == {"prompt"} else inputs.get("image", inputs.get("audio", ""))
        # With several samples of each input no two share a seed. With one of each, all have the seed that was given.
        first = number * request.num if request.num > 1 else 0
        yield Item(name, where, inputs, request.seed + first, request.options)


def _inputs_given(request: Request) -> dict[str, list[str]]:
    """The inputs that were given, by kind: prompts, and files."""
    given = {"prompt": list(request.prompt)}
    for kind in SUFFIXES:
        given[kind] = []
        for path in getattr(request, kind):
            given[kind] += _files(kind, path)
    return {kind: values for kind, values in given.items() if values}


def _count(given: Mapping[str, list[str]], many: set[str]) -> int:
    """How many items there are; InputError where it does not show which inputs belong together."""
    counts = {len(given[kind]) for kind in many}
    prompts_and_files = "prompt" in many and len(many) > 1
    if prompts_and_files or len(counts) > 1:
        told = " and ".join(f"{len(values)} of --{kind}" for kind, values in given.items() if kind in many)
        raise InputError(f"{told} do not pair by themselves; say which belong together in a file, with --records")
    return max(counts, default=1)


def _files(kind: str, path: str) -> list[str]:
    """A file as it is; of a folder, those of this kind in it and its subfolders, by name."""
    folder = Path(path)
    if not folder.is_dir():
        return [path]
    inside = [str(file) for file in find(folder, SUFFIXES[kind])]
    if not inside:
        raise InputError(f"--{kind} {path}: holds no {kind}; it may be {', '.join(sorted(SUFFIXES[kind]))}")
    return inside


def _names(given: Mapping[str, list[str]], count: int) -> list[str]:
    """What the results of each item are called: as its file, or numbered; "" for a lone prompt."""
    files = [given[kind] for kind in ("image", "audio") if len(given.get(kind, ())) == count]
    if not files and count == 1:
        return [""]
    if not files:
        return numbered_names(count)
    stems = [Path(file).stem for file in files[0]]
    if len(set(stems)) == count:
        return stems
    return [f"{number}-{stem}" for number, stem in zip(numbered_names(count), stems)]


def numbered_names(count: int) -> list[str]:
    """0000, 0001, ..."""
    return [f"{number:04d}" for number in range(count)]


# ---------------------------------------------------------------- names and texts that can be written


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8 and stand in a file: no lone surrogates, no NUL."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def printable(value: str) -> str:
    """A string as it can be printed, what is no text in it as \\udcff."""
    return value.encode("utf-8", "backslashreplace").decode()


def is_file_name(name: str) -> bool:
    """Whether a file in a folder can have this name, with a number and a suffix behind it."""
    hidden = not name or name.startswith(".")
    return not hidden and is_text(name) and Path(name).name == name and len(name.encode()) <= 200
