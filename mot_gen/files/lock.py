"""lock: one writer a folder, at one time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mot_gen.errors import InputError


@contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Holds a folder for writing: a second writer gets an InputError at once, a killed one frees it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            writer = file.read().strip() or "unknown"
            raise InputError(f"{folder}: process {writer} is writing here; wait for it or give another --out") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
