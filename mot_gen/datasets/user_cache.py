"""The user's cache folder, for data that is slow to make: cached_file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mot_gen.files.atomic import writing


def cached_file(name: str, write: Callable[[BinaryIO], None]) -> Path:
    """The file `name` in the cache folder, $XDG_CACHE_HOME/mot_gen or else ~/.cache/mot_gen. `write` writes it once.

    Two processes that write it at the same time both leave a whole file.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    file = Path(caches) / "mot_gen" / name
    if not file.is_file():
        with writing(file) as part, part.open("wb") as opened:
            write(opened)
    return file
