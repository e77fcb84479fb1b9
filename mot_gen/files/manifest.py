"""A manifest lists a folder's files with size and sha256: write, entries, read, damage, sha256, claim, refuse_pickle.

A flipped byte in safetensors loads as a wrong number without a word; whoever reads weights asks `damage` first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError, require
from mot_gen.files import atomic, json_files
from mot_gen.files.safe_names import is_inside

NAME = "manifest.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".distcp")


def write(folder: Path, about: Mapping[str, Any] | None = None, files: Mapping[str, dict] | None = None) -> None:
    """Write `manifest.json` over all files below a folder, or over `files`, whose entries were made by `entries`;
    `about` is kept beside the list. It is renamed when whole, since a folder that has one counts as finished."""
    listed = entries(folder) if files is None else files
    atomic.write_json(folder / NAME, {**(about or {}), "files": listed}, indent=1)


def claim(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder of `path` is made from: what stands there already, else `inputs`, which is then written."""
    if not path.exists():
        atomic.write_json(path, inputs, indent=1)
    found = json_files.read(path)
    require(isinstance(found, dict), f"{path}: holds no object; remove it")
    return found


def entries(folder: Path, rank: int = 0, size: int = 1) -> dict[str, dict]:
    """File -> size and sha256, of every size-th file below a folder from the rank-th on, so that many can share it."""
    files = sorted({*filter(Path.is_file, folder.rglob("*"))} - {folder / NAME})
    return {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in files[rank::size]
    }


def read(folder: Path) -> dict[str, dict]:
    """The files in a folder's manifest; FileNotFoundError where there is none, ValueError or KeyError if damaged."""
    return json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]


def damage(folder: Path, rank: int = 0, size: int = 1) -> str | None:
    """What is wrong with a folder, as `file: what`. None if every listed file is as it was written and every file of
    weights is listed.

    With `rank` and `size`, only that share of the listed files is read; what is not listed is looked for on each rank.
    """
    try:
        listed = read(folder)
        for name, entry in list(listed.items())[rank::size]:
            _check_file(folder, name, entry)
        _check_all_listed(folder, listed)
    except InputError as error:
        return str(error)
    except FileNotFoundError as error:
        return f"{error.filename}: is missing"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{folder / NAME}: is damaged"
    except OSError as error:
        return f"{error.filename}: cannot be read: {error.strerror}"
    return None


def _check_file(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """InputError unless a listed file lies in the folder and is as it was written."""
    path = folder / name
    require(is_inside(name, folder), f"{folder / NAME}: lists {name!r}, which lies outside of the folder")
    size = path.stat().st_size
    require(path.is_file(), f"{path}: is no regular file")
    require(size == entry["size"], f"{path}: has {size} bytes, but {entry['size']} were written")
    require(sha256(path) == entry["sha256"], f"{path}: its sha256 differs from the manifest's")


def _check_all_listed(folder: Path, listed: Mapping[str, dict]) -> None:
    """Weights that lie in a folder and not in its manifest would be read unchecked, in the place of others."""
    for path in sorted(folder.rglob("*.safetensors")):
        require(path.relative_to(folder).as_posix() in listed, f"{path}: is not listed in {NAME}")


def refuse_pickle(folder: str | Path) -> None:
    """InputError where a folder's weights are pickled, since to read a pickle is to run what it says."""
    files = sorted(Path(folder).glob("*"))
    if any(path.suffix == ".safetensors" for path in files):
        return
    for path in files:
        require(
            path.suffix not in PICKLES,
            f"{path}: weights in pickle form are not read, since they can run code; if you trust it, convert it: "
            f"safetensors.torch.save_file(torch.load('{path.name}', weights_only=True), "
            "'diffusion_pytorch_model.safetensors')",
        )


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
