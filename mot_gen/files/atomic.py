"""Files and folders that are written whole or not at all: writing, writing_folder, write_text, write_bytes, write_json.

Everything is written under a temporary name in the same folder and renamed at the end. A reader therefore finds the old
content or the new, never a part. After an error, a full disk or Ctrl-C, the temporary file is removed.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_numbers = itertools.count()


class Unwritable(InputError, OSError):
    """A file or folder that cannot be written. The message names it and says why, in one line."""


@contextmanager
def writing(path: str | Path, durable: bool = False, alone: bool = False) -> Iterator[Path]:
    """Give the temporary path to write to; when the block ends well, it gets the name `path`.

    The temporary path has the suffix of `path`, since some writers choose a format by it. Missing folders are made. A
    link keeps pointing to its file. What is no regular file, such as /dev/stdout, is written to directly.

    durable: the content is on the disk before the name is, so that not even a power failure leaves a part.
    alone: a second process that writes the same file gets an InputError at once.
    Raises Unwritable for every OSError of the block.
    """
    given, target = Path(path), Path(os.path.realpath(path))
    try:
        if given.exists() and not given.is_file():
            yield given
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target) if alone else _removed(temporary(target)) as part:
            yield part
            if durable:
                flush(part)
            part.replace(target)
            if durable:
                flush(target.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def _removed(part: Path) -> Iterator[Path]:
    """A temporary file that is removed at the end, where it has not been renamed."""
    try:
        yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def _locked(target: Path) -> Iterator[Path]:
    """A temporary file of one name for all, which one process holds. What a killed process left in it is dropped."""
    part = target.with_name(f".{target.name}.part")
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have given the file its final name since it was opened here.
            mine = os.path.samestat(part.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise InputError(f"{target}: another process writes it now; give another name")
        file.truncate(0)
        with _removed(part):
            yield part


def write_bytes(path: str | Path, content: bytes, durable: bool = False) -> None:
    """Write a file whole; see `writing`."""
    with writing(path, durable) as part:
        part.write_bytes(content)


def write_text(path: str | Path, content: str, durable: bool = False) -> None:
    """Write UTF-8 text whole; see `writing`."""
    with writing(path, durable) as part:
        part.write_text(content, encoding="utf-8")


def write_json(path: str | Path, value: Any, durable: bool = False, indent: int = 2) -> None:
    """Write a value as indented JSON and a line break, whole; see `writing`."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n", durable)


@contextmanager
def writing_folder(path: str | Path) -> Iterator[Path]:
    """Give a new, empty temporary folder; when the block ends well, it takes the place of `path`.

    An earlier folder of that name is there until the moment of the exchange, and is removed after it.
    Raises Unwritable for every OSError of the block.
    """
    target = Path(path)
    part = temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        yield part
        if target.exists():
            _exchange(part, target)
        else:
            part.rename(target)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def temporary(path: Path) -> Path:
    """A name in the same folder, with the same suffix, that no other process or thread uses. It is hidden."""
    return path.with_name(f".{os.getpid()}-{next(_numbers)}.part{path.suffix}")


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Exchange the names of two folders: at once where the system can (Linux), else by two renames."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is not None:
        names = os.fsencode(new), os.fsencode(old)
        if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    aside = temporary(old)
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


def _unwritable(path: str | Path, error: OSError) -> OSError:
    if isinstance(error, InputError):
        return error
    return Unwritable(f"{path}: cannot be written: {error.strerror or error}")
