"""A manifest lists the files of a folder with size and sha256: write, damage, sha256.

A flipped byte in safetensors loads as a wrong number without a word; whoever reads weights asks `damage` first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "manifest.json"


def write(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write `manifest.json` over all files below a folder; `about` is kept beside the list."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)} for path in paths
    }
    aside = folder / f".{NAME}.new"  # renamed when whole, since a folder that has a manifest counts as finished
    aside.write_text(json.dumps({**(about or {}), "files": files}, indent=1), encoding="utf-8")
    aside.replace(folder / NAME)


def damage(folder: Path) -> str | None:
    """What is wrong with a folder, as `file: what`, or None if every listed file is as it was written."""
    try:
        listed = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        return next(filter(None, (_file_damage(folder / name, entry) for name, entry in listed.items())), None)
    except FileNotFoundError as error:
        return f"{error.filename}: is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{folder / NAME}: is damaged"
    except OSError as error:
        return f"{error.filename}: cannot be read: {error.strerror}"


def _file_damage(path: Path, entry: Mapping[str, Any]) -> str | None:
    size = path.stat().st_size
    if size != entry["size"]:
        return f"{path}: has {size} bytes, but {entry['size']} were written"
    return None if sha256(path) == entry["sha256"] else f"{path}: its sha256 differs from the manifest's"


def sha256(path: Path) -> str:
    """In hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
