"""Where files are: place, is_far, Ranges, Spool. Local paths, or whatever address fsspec knows: s3://, https://, ...

A far place is a `UPath` (universal_pathlib, in the extra `remote`), which answers as a `Path` does.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError, one_line


def place(name: Any) -> Any:
    """A path, or the place that an address such as s3://bucket/a.tar names; InputError without what reads it."""
    if is_far(name):
        return name
    if "://" not in str(name):
        return Path(os.path.expanduser(name))
    try:
        from upath import UPath
    except ImportError as error:
        raise InputError(f"{name}: an address needs the extra: pip install 'mot-gen[remote]'") from error
    try:
        far = UPath(name)
        far.fs  # noqa: B018  what a protocol needs is imported here
        return far
    except ImportError as error:
        raise InputError(f"{name}: {one_line(error)}; install what this kind of address needs") from error
    except ValueError as error:
        raise InputError(f"{name}: {one_line(error)}") from error


def is_far(name: Any) -> bool:
    """Whether this is a place that is not a local path."""
    return hasattr(name, "read_bytes") and not isinstance(name, Path)


class Ranges:
    """Bytes from anywhere in a file, for any number of threads."""

    def __init__(self, path: Any):
        self._path = path
        self._handle = None if is_far(path) else path.open("rb")

    def read(self, start: int, size: int) -> bytes:
        if self._handle is not None:
            return os.pread(self._handle.fileno(), size, start)
        return self._path.fs.cat_file(self._path.path, start, start + size)


class Spool:
    """What is small in a far file and asked for often, in a local file without a name."""

    def __init__(self):
        self._handle = tempfile.TemporaryFile()  # noqa: SIM115  as long as this lives
        self._end = 0

    def add(self, content: bytes) -> int:
        """Keep some bytes; returns where they begin."""
        start = self._end
        self._end += os.pwrite(self._handle.fileno(), content, start)
        return start

    def read(self, start: int, size: int) -> bytes:
        return os.pread(self._handle.fileno(), size, start)
