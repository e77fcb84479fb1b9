"""What is made once and kept in the user's cache folder: rendered."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mot_gen.files.atomic import writing


def rendered(name: str, render: Callable[[BinaryIO], None]) -> Path:
    """The file `name` in the cache folder ($XDG_CACHE_HOME/mot_gen, else ~/.cache/mot_gen); `render` writes it once.

    Written aside and renamed, so that two processes which render at once both leave a whole file.
    """
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mot_gen" / name
    if not file.is_file():
        with writing(file) as part, part.open("wb") as opened:
            render(opened)
    return file
