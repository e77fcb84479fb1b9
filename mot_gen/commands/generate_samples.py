"""The samples that `mot-gen generate` makes of its items: Sample, Generation, examine, samples_of, is_made.

Everything about a sample is known before the model is loaded: where it goes, and what is written into it about how it
was made. So samples that were made before are recognised, and what cannot be made is refused early.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mot_gen import __version__
from mot_gen.checkpoints import INDEX, fingerprint
from mot_gen.checkpoints.folders import ANSWERS, CONFIG, read_config
from mot_gen.commands.generate_inputs import SUFFIXES, Item, Request, is_text, printable
from mot_gen.commands.generate_outputs import about_file, as_text, place
from mot_gen.commands.without_torch import refuse_early
from mot_gen.errors import InputError, require
from mot_gen.files import json_files
from mot_gen.files.image_files import header
from mot_gen.files.manifest import sha256
from mot_gen.files.safe_names import refuse_url
from mot_gen.files.suffixes import PICTURES
from mot_gen.pipelines.directions import INPUTS, OPTIONS, Direction, choose

UNSETTLED = ("mot_gen_version",)  # what may differ in what was made already
FILES = ("image", "speech")  # results that cannot be printed


@dataclass(frozen=True)
class Generation:
    """What is known of a checkpoint before it is loaded, and then what it makes."""

    folder: Path
    request: Request

    def check_index(self) -> None:
        """InputError for an index that is damaged, whatever is asked."""
        _ = self.sampling

    @cached_property
    def sampling(self) -> dict[str, Any]:
        """The checkpoint's own settings; InputError for an index that is damaged."""
        index = json_files.read(self.folder / INDEX)
        sampling = index.get("sampling") if isinstance(index, dict) else ()
        if not isinstance(sampling, dict | None):
            raise InputError(f"{self.folder / INDEX}: is damaged; export the model again, or fetch it again")
        return sampling or {}

    @cached_property
    def modalities(self) -> list[str]:
        """Names of the model's modalities; none where its config does not say, which loading it then reports."""
        path = self.folder / "model" / CONFIG
        config = json_files.read(path) if path.is_file() else None
        if not isinstance(config, dict):
            return []
        stated = config.get("modalities") or ()
        return [str(each.get("name")) for each in stated if isinstance(each, dict)]

    def check_options(self, given: Mapping[str, Any]) -> None:
        """InputError for a height, width or language that the checkpoint does not have; of each once."""
        if any(value is not None for value in given.values()) and given not in self.checked:
            refuse_early(lambda: _check_size(self.folder, given), lambda: _check_language(self.folder, given))
            self.checked.append(given)

    @cached_property
    def checked(self) -> list[Mapping[str, Any]]:
        """Options that were not refused."""
        return []

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of the checkpoint's files."""
        return fingerprint(self.folder)

    @cached_property
    def loaded(self):
        """The checkpoint, loaded when it is first asked for."""
        from mot_gen.pipelines.loaded import Loaded

        return Loaded(self.folder, self.request.dtype, self.request.compile, self.request.weights)


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

    @property
    def summary(self) -> dict:
        """What the command prints of it, beside the result."""
        where = {} if self.path is None else {"file": str(self.path)}
        return {"id": self.item.name, "seed": self.seed, **self.item.inputs, **where}


def examine(item: Item, generation: Generation, alone: bool) -> tuple[Direction, dict[str, Any]]:
    """The direction of an item, and what will be written about it. alone: whether there is no other item.

    InputError for an item that cannot be made."""
    if item.error:
        where = f"{item.where}: " if alone else ""
        raise InputError(where + item.error)
    _check_text(item)
    direction = choose(generation.request.to, item.inputs, item.options)
    about = _about(item, direction, generation)
    _check_modalities(direction, generation)
    generation.check_options({name: item.options.get(name) for name in ("height", "width", "language")})
    return direction, about


def samples_of(item: Item, direction: Direction, about: dict, request: Request, alone: bool) -> Iterator[Sample]:
    """The samples of an item that was examined. InputError for what concerns all items, as where they are to go."""
    for number in range(request.num):
        seed = item.seed + number
        yield Sample(item, direction, seed, _path(item, number, request, alone), {**about, "seed": seed})


def _about(item: Item, direction: Direction, generation: Generation) -> dict[str, Any]:
    """All that a sample depends on but its seed: files by their name and contents, the checkpoint's own settings where
    nothing else was said."""
    files = {kind: _file(kind, path) for kind, path in item.inputs.items() if kind in SUFFIXES}
    acting = set(direction.defaults) & set(direction.options)
    defaults = {name: value for name, value in generation.sampling.items() if name in acting}
    held = {} if generation.request.weights == "memory" else {"weights": generation.request.weights}
    return {
        "mot_gen_version": __version__,
        "model_sha256": generation.sha256,
        "direction": direction.name,
        **item.inputs,
        **{kind: path.name for kind, path in files.items()},
        **{f"{kind}_sha256": sha256(path) for kind, path in files.items()},
        **{name: defaults[name] for name in direction.defaults if name in defaults},
        **item.options,
        "dtype": generation.request.dtype,
        **held,
    }


def _check_text(item: Item) -> None:
    """InputError where a prompt, a path or a name is no text: bytes of a file name that are no UTF-8, a lone half of a
    surrogate pair. Nothing could be written about it."""
    for kind, value in {"name": item.name, **item.inputs, **item.options}.items():
        if isinstance(value, str) and not is_text(value):
            advice = "rename the file" if kind in ("name", *SUFFIXES) else "write it again"
            raise InputError(f"{kind} {printable(value):.80}: holds characters that are no text; {advice}")


def _check_modalities(direction: Direction, generation: Generation) -> None:
    """InputError where the checkpoint lacks a modality that the direction needs."""
    missing = sorted(direction.modalities - set(generation.modalities))
    if generation.modalities and missing:
        raise InputError(f"this checkpoint has no {missing[0]}; it has {', '.join(generation.modalities)}")


def _check_size(folder: Path, given: Mapping[str, Any]) -> None:
    from mot_gen.tokenizers.image_edges import drawn_size

    if given["height"] is None and given["width"] is None:
        return
    stated = read_config(folder / "image_tokenizer" / CONFIG)
    drawn_size(stated["image_size"], given["height"], given["width"])


def _check_language(folder: Path, given: Mapping[str, Any]) -> None:
    from mot_gen.pipelines.captions.languages import Languages

    path = folder / "model" / ANSWERS
    Languages.of_file(path if path.is_file() else None).wanted(given["language"])


def _file(kind: str, path: str) -> Path:
    refuse_url(path)
    require(Path(path).is_file(), f"--{kind} {path}: no such {kind} file")
    if SUFFIXES[kind] is PICTURES:
        header(path)
    return Path(path)


def _path(item: Item, number: int, request: Request, alone: bool) -> Path | None:
    if request.out is not None:
        return place(request.out, request.to, item.name, number, request.num, alone)
    require(request.to not in FILES, f"--to {request.to} needs --out: a file, or a folder")
    return None


def is_made(sample: Sample, request: Request) -> bool:
    """Whether the sample's file in a folder was made by these very settings; InputError where it was made by others.
    A file that is itself named with --out is always written, as all are with --redo."""
    path, out = sample.path, Path(request.out or "")
    if request.redo or path is None or out.suffix == path.suffix or not path.exists():
        return False
    remedy = "give another --out, or --redo to replace it"
    written = about_file(path)
    if written is None:
        raise InputError(f"{path}: is there, and does not say what made it; {remedy}")
    changed = _difference(written, as_text(sample.about))
    if changed:
        raise InputError(f"{path}: was made with {changed}; {remedy}")
    return True


def _difference(written: Mapping[str, str], wanted: Mapping[str, str]) -> str | None:
    """The first setting that differs, as "NAME BEFORE, not NOW"."""
    for name in (*wanted, *INPUTS, *OPTIONS):
        before, now = written.get(name), wanted.get(name)
        if before == now or name in UNSETTLED:
            continue
        if before is None:
            return f"no {name}, not {now:.60}"
        return f"{name} {before:.60}, not {'without' if now is None else now:.60}"
    return None
