"""What `mot-gen generate` does: register, generate.

Items are checked, and those that are made already are put aside, before anything heavy is loaded; then they are made in
batches of one direction and the same options. Every sample has its own seed (the item's, plus its number among the
item's samples), so that it is the same alone, in a folder's run and in batches of another size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from mot_gen import __version__
from mot_gen.checkpoints import DTYPE, INDEX, find, fingerprint
from mot_gen.commands.generate_inputs import SUFFIXES, Item, Request, is_text, items_of, shown
from mot_gen.commands.generate_outputs import about_file, as_text, place, save
from mot_gen.errors import InputError
from mot_gen.files import json_files
from mot_gen.files.manifest import sha256
from mot_gen.pipelines.directions import INPUTS, KINDS, OPTIONS, Direction, choose, flag

UNSETTLED = ("mot_gen_version",)  # what may differ in what was made already


@dataclass(frozen=True)
class Sample:
    """One result to be made. path: None for what is only printed. about: what will be written into it."""

    item: Item
    direction: Direction
    seed: int
    path: Path | None
    about: dict

    @property
    def group(self) -> tuple:
        """Samples of one group can be made together."""
        return self.direction.name, tuple(self.item.inputs), json.dumps(self.item.options, sort_keys=True)


@dataclass
class _Failures:
    """Items that could not be made: named as they come, and too many end the run."""

    items: int
    most: int
    names: set[str] = field(default_factory=set)

    def add(self, item: Item, error: InputError) -> None:
        if self.items == 1:
            raise error
        if item.name in self.names:  # by another of its samples
            return
        self.names.add(item.name)
        print(f"mot-gen: skipped {shown(item.where)}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        if len(self.names) > self.most:
            raise InputError(f"{len(self.names)} items could not be made, more than --max-failures {self.most}")


@dataclass(frozen=True)
class _Checkpoint:
    """What is known of a checkpoint before it is loaded, and then what it makes."""

    folder: Path
    request: Request
    sampling: dict = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        return fingerprint(self.folder)

    @cached_property
    def loaded(self):
        from mot_gen.pipelines.loaded import Loaded

        return Loaded(self.folder, self.request.dtype, self.request.compile, self.request.weights)


def generate(checkpoint: str | Path, request: Request) -> Iterator[dict]:
    """Make what a request asks, a dict a sample as it is made: `id`, `seed`, the inputs, `file` where something was
    written, `text` of a text, and `kept` where it was there already. InputError for what concerns all items, for a lone
    item, and at the end where some items could not be made."""
    folder = find(checkpoint)
    sampling = _sampling(folder)
    known = _Checkpoint(folder, request, sampling)
    items = items_of(request)
    failures = _Failures(len(items), request.max_failures)
    samples = [sample for item in items for sample in _samples(item, request, known, failures, len(items) == 1)]
    made = [not request.redo and _is_made(sample, request) for sample in samples]
    for sample in (sample for sample, there in zip(samples, made) if there):
        yield _told(sample) | {"kept": True}
    for batch in _batches([sample for sample, there in zip(samples, made) if not there], request.batch_size):
        yield from _made(batch, known, failures)
    if failures.names:
        raise InputError(f"{len(failures.names)} of {len(items)} items could not be made; they are named above")


def _sampling(folder: Path) -> dict:
    """The checkpoint's own settings of sampling; InputError for an index that is damaged."""
    index = json_files.read(folder / INDEX)
    sampling = index.get("sampling") if isinstance(index, dict) else None
    if not isinstance(index, dict) or not isinstance(sampling, dict | None):
        raise InputError(f"{folder / INDEX}: is damaged; export the model again, or fetch it again")
    return sampling or {}


def _samples(item: Item, request: Request, known: _Checkpoint, failures: _Failures, alone: bool) -> Iterator[Sample]:
    """The samples of an item, or none where it cannot be made. InputError for what concerns all items."""
    try:
        if item.error:
            raise InputError(f"{item.where}: {item.error}" if alone else item.error)
        _check_text(item)
        direction = choose(request.to, item.inputs, item.options)
        files = {kind: _file(kind, path) for kind, path in item.inputs.items() if kind in SUFFIXES}
    except InputError as error:
        failures.add(item, error)
        return
    defaults = {name: known.sampling[name] for name in direction.defaults if name in known.sampling}
    about = {
        "mot_gen_version": __version__,
        "model_sha256": known.sha256,
        "direction": direction.name,
        **item.inputs,
        **{kind: path.name for kind, path in files.items()},
        **{f"{kind}_sha256": sha256(path) for kind, path in files.items()},
        **{name: value for name, value in defaults.items() if name in direction.options},
        **item.options,
        "dtype": request.dtype,
        **({"weights": request.weights} if request.weights != "memory" else {}),
    }
    for number in range(request.num):
        seed = item.seed + number
        yield Sample(item, direction, seed, _path(item, number, request, alone), {**about, "seed": seed})


def _check_text(item: Item) -> None:
    """InputError where a prompt, a path or a name is no text: bytes of a file name that are no UTF-8, a lone half of a
    surrogate pair. Nothing could be written about it."""
    for kind, value in {"name": item.name, **item.inputs, **item.options}.items():
        if isinstance(value, str) and not is_text(value):
            advice = "rename the file" if kind in ("name", *SUFFIXES) else "write it again"
            raise InputError(f"{kind} {shown(value):.80}: holds characters that are no text; {advice}")


def _file(kind: str, path: str) -> Path:
    if not Path(path).is_file():
        raise InputError(f"--{kind} {path}: no such {kind} file")
    return Path(path)


def _path(item: Item, number: int, request: Request, alone: bool) -> Path | None:
    if request.out is not None:
        return place(request.out, request.to, item.name, number, request.num, alone)
    if request.to in ("image", "speech"):
        raise InputError(f"--to {request.to} needs --out: a file, or a folder")
    return None


def _is_made(sample: Sample, request: Request) -> bool:
    """Whether the sample's file in a folder was made by these very settings; InputError where it was made by others.
    A file that is itself named with --out is always written."""
    path = sample.path
    if path is None or Path(cast("str", request.out)).suffix == path.suffix or not path.exists():
        return False
    written, wanted = about_file(path), as_text(sample.about)
    remedy = "give another --out, or --redo to replace it"
    if written is None:
        raise InputError(f"{path}: is there, and does not say what made it; {remedy}")
    for name in (*wanted, *INPUTS, *OPTIONS):
        before, now = (each.get(name, "nothing") for each in (written, wanted))
        if name not in UNSETTLED and before != now:
            raise InputError(f"{path}: was made with {name} {before:.60}, not {now:.60}; {remedy}")
    return True


def _batches(samples: list[Sample], size: int) -> Iterator[list[Sample]]:
    for _, group in groupby(samples, key=lambda sample: sample.group):
        together = list(group)
        step = size if together[0].direction.batched else 1
        yield from (together[start : start + step] for start in range(0, len(together), step))


def _made(batch: list[Sample], known: _Checkpoint, failures: _Failures) -> Iterator[dict]:
    """Make a batch; where the pipeline refuses it, each of its samples alone, to find those that it refuses."""
    first, loaded = batch[0], known.loaded
    inputs, seeds = [sample.item.inputs for sample in batch], [sample.seed for sample in batch]
    try:
        results = loaded.run(first.direction, inputs, seeds, first.item.options)
    except Exception as error:  # of one input; the others are still made
        if len(batch) > 1:
            for sample in batch:
                yield from _made([sample], known, failures)
        elif isinstance(error, InputError):
            failures.add(first.item, error)
        elif failures.items > 1:
            failures.add(first.item, InputError(f"{type(error).__name__}: {error}"))
        else:
            raise
        return
    for sample, result in zip(batch, results):
        yield _written(sample, result)


def _written(sample: Sample, result) -> dict:
    told, to = _told(sample), sample.direction.to
    if sample.path is not None:
        save(result, to, sample.path, sample.about)
    elif to == "any" and not all(isinstance(segment, str) for segment in result):
        raise InputError("--to any drew a picture; say where pictures go, with --out FOLDER")
    if to == "vector":
        result = json.dumps(result.tolist())
    if to == "any":
        result = "\n".join(segment for segment in result if isinstance(segment, str))
    return told | {"text": result} if isinstance(result, str) else told


def _told(sample: Sample) -> dict:
    where = {} if sample.path is None else {"file": str(sample.path)}
    return {"id": sample.item.name, "seed": sample.seed, **sample.item.inputs, **where}


# ---------------------------------------------------------------- the command


def register(commands) -> None:
    """Add `generate` to the commands of mot-gen."""
    command = commands.add_parser("generate", help="pictures, texts, speech or documents from a checkpoint")
    command.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run's folder, its model/ folder, or a shipped name"
    )
    command.add_argument("--to", required=True, choices=KINDS)
    command.add_argument("--prompt", metavar="TEXT", action="append", help="may be given many times")
    for kind in SUFFIXES:
        command.add_argument(f"--{kind}", metavar="PATH", nargs="+", help="files, or a folder of them")
    command.add_argument(
        "--records", metavar="FILE", help="a .jsonl of prompts or of objects: inputs, id, seed, options"
    )
    command.add_argument("--out", metavar="PATH", help="a file; or a folder, which is gone on with where it was left")
    command.add_argument("--num", type=int, default=1, metavar="N", help="samples of each input; seeds count up")
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument("--batch-size", type=int, default=16, metavar="N", help="results do not depend on it")
    command.add_argument("--max-failures", type=int, default=10, metavar="N", help="inputs that may fail; default: 10")
    command.add_argument("--redo", action="store_true", help="also what is in the folder already")
    command.add_argument("--dtype", **DTYPE)
    command.add_argument("--weights", choices=("memory", "disk", "int8"), default="memory", help="how they are held")
    command.add_argument(
        "--compile", action="store_true", help="with torch.compile first: half a minute that pays for many samples"
    )
    for name, type_ in OPTIONS.items():
        note = "0 is greedy" if name == "temperature" else None
        command.add_argument(flag(name), type=type_, metavar={str: "TEXT", int: "N", float: "X"}[type_], help=note)
    command.add_argument("--json", action="store_true", help="a JSON object a line for each sample")
    command.set_defaults(func=_generate)


def _generate(arguments) -> int:
    given = vars(arguments)
    inputs: dict[str, Any] = {kind: tuple(given[kind] or ()) for kind in INPUTS}
    options = {name: given[name] for name in OPTIONS if given[name] is not None}
    plain = ("to", "records", "out", "num", "seed", "batch_size", "max_failures", "redo", "dtype", "compile", "weights")
    request = Request(**inputs, **{name: given[name] for name in plain}, options=options)
    _show(generate(arguments.checkpoint, request), arguments.json)
    return 0


def _show(made: Iterable[dict], as_json: bool) -> None:
    for each in made:
        print(json.dumps(each, ensure_ascii=False) if as_json else each.get("file") or each["text"], flush=True)
