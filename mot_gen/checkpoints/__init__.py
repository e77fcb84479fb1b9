"""Shipped checkpoints, one folder each beside this file, and where any checkpoint is: names, locate, find,
weights_of, component_folder, fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mot_gen.checkpoints.folders import INDEX, read_json
from mot_gen.errors import InputError, nearest
from mot_gen.files import manifest

HERE = Path(__file__).parent


def names() -> list[str]:
    """The checkpoints that came with the package."""
    return sorted(index.parent.name for index in HERE.glob(f"*/{INDEX}"))


def locate(path: str) -> str:
    """Where a shipped checkpoint's folder is, or one below it, such as `openmoji/image_tokenizer`; any other path, and
    one that is there, stays as it is. Commands read by it every argument that may be such a folder."""
    shipped = HERE / path
    if path.partition("/")[0] in names() and shipped.exists() and not Path(path).exists():
        return str(shipped)
    return path


def find(checkpoint: str | Path) -> Path:
    """The folder with `model_index.json` of a run's folder, its `model/`, or a shipped checkpoint's name.

    A folder comes before a name. InputError where there is neither, naming what is shipped.
    """
    given = Path(checkpoint)
    places = [given, given / "model"]
    if str(checkpoint) in names():
        places.append(HERE / given.name)
    for folder in places:
        if (folder / INDEX).is_file():
            return folder
    raise InputError(f"{given}: {_why_none(given)}")


def _why_none(given: Path) -> str:
    """Why this is no checkpoint, and what to give instead."""
    if (given / "checkpoints").is_dir():
        return "is a run that has not ended, so it has no model/ yet; finish it with --resume"
    if given.exists():
        return f"no {INDEX} there or in its model/ folder; give a run's folder or its model/ folder"
    if (HERE.parent / "recipes" / f"{given}.yaml").is_file():
        run = Path("runs") / given
        remedy = f"give its run, {run}" if run.is_dir() else f"train it first: mot-gen train {given}"
        return f"is a recipe and no checkpoint; {remedy}"
    shipped = f"no checkpoint of this name is shipped{nearest(str(given), names())}"
    return f"no such folder, and {shipped}; give a run's folder or its model/ folder"


def weights_of(name: str) -> Path | None:
    """The folder with a model's config and weights: of a run, a pipeline, a shipped name, or itself; None where there
    is no model."""
    given = Path(locate(name))
    for place in (given / "model" / "model", given / "model", given):
        if (place / "config.json").is_file():
            return place
    return None


def component_folder(place: str | Path, cls: str, kwargs: Mapping[str, Any]) -> str | Path:
    """The folder from which `from_pretrained` of a class loads.

    place: what the user gave. If it is a pipeline's folder, a run's, or a shipped checkpoint's name, the component of
    this class in it; else `place` itself. kwargs: those of `from_pretrained`; a `subfolder` among them is respected.
    """
    if kwargs.get("subfolder") or (Path(place) / "config.json").is_file():
        return place
    if not Path(place).is_dir() and str(place) not in names():
        return place
    try:
        folder = find(place)
    except InputError:
        return place
    for name, entry in read_json(folder / INDEX).items():
        if isinstance(entry, list) and entry[-1:] == [cls]:
            return folder / name
    return place


def fingerprint(folder: Path) -> str:
    """sha256 in hex over the files of a checkpoint's folder: weights, tokenizers, scheduler and defaults."""
    has_manifest = (folder / manifest.NAME).exists()
    try:
        files = manifest.read(folder) if has_manifest else manifest.entries(folder)
        listed = {name: entry["sha256"] for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / manifest.NAME}: is damaged; export the model again, or fetch it again") from error
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
