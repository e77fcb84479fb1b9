"""Reading other people's data sets: Row, rows, unknown_fields, and what media.py offers to formats.

`rows` reads JSON arrays, JSON lines, both also zipped, and parquet, one row at a time, however long the file is. A byte
order mark is dropped. Bytes that are no UTF-8 pass as surrogates, which cannot be written again; so the row is found
out, and the others are read.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import filterfalse
from pathlib import Path
from typing import Any, TextIO

from mot_gen.corpora.json_array import Array
from mot_gen.corpora.media import Media, Unconvertible, as_list, convertible, image_part, text_part
from mot_gen.errors import InputError, cause, one_line, require
from mot_gen.files.json_files import MAX_BYTES
from mot_gen.files.parquet_files import reading
from mot_gen.files.suffixes import find, is_hidden

__all__ = [
    "Media",
    "Row",
    "Unconvertible",
    "as_list",
    "convertible",
    "files",
    "image_part",
    "rows",
    "text_part",
    "unknown_fields",
]

JSON = (".json", ".jsonl", ".ndjson")
SUFFIXES = (*JSON, ".zip", ".parquet")
ENCODING = "utf-8-sig"  # drops a byte order mark


@dataclass(frozen=True)
class Row:
    """One row as it was found. where: its file and row, for messages. id: a name for it where it brings none.
    error: why it could not be read; `fields` are then empty."""

    where: str
    id: str
    fields: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def __getitem__(self, name: str) -> Any:
        """A field that a row of this format must have."""
        convertible(self.fields.get(name) is not None, f"has no {name}; its fields are {self._known()}")
        return self.fields[name]

    def first_of(self, *names: str) -> Any:
        """The first of several fields that is not empty; a row of this format must have one."""
        found = next(filter(None, map(self.fields.get, names)), None)
        convertible(found, f"has no {' or '.join(names)}; its fields are {self._known()}")
        return found

    def _known(self) -> str:
        return ", ".join(self.fields) or "none"


def rows(source: Path) -> Iterator[Row]:
    """The rows of a file, or of all files with one of SUFFIXES below a folder, in the order of their names."""
    for path in files(source, SUFFIXES):
        try:
            yield from _rows_of(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {cause(error)}") from None


def files(source: Path, suffixes: Sequence[str]) -> list[Path]:
    """`source` itself, or the files below it with one of the suffixes; InputError where there is none."""
    kinds = ", ".join(suffixes)
    if source.is_dir():
        found = find(source, suffixes)
        require(found, f"{source}: holds no file of {kinds}")
        return found
    require(source.is_file(), f"{source}: no such file or folder")
    named = source.suffix or "no suffix"
    require(source.suffix.lower() in suffixes, f"{source}: {named} cannot be read; give {kinds} or a folder")
    return [source]


def _rows_of(path: Path) -> Iterator[Row]:
    """The rows of one file, by its suffix."""
    read = {".parquet": _parquet, ".zip": _zipped}.get(path.suffix.lower(), _json)
    return read(path)


def _json(path: Path) -> Iterator[Row]:
    """The rows of a file of JSON."""
    with path.open(encoding=ENCODING, errors="surrogateescape") as file:
        yield from _json_rows(file, path)


def _zipped(path: Path) -> Iterator[Row]:
    """Members are read where they lie, never extracted."""
    try:
        with zipfile.ZipFile(path) as archive:
            shown = filterfalse(is_hidden, archive.namelist())
            names = [name for name in shown if name.lower().endswith(JSON)]
            for name in sorted(names):
                with archive.open(name) as member, io.TextIOWrapper(member, ENCODING, "surrogateescape") as file:
                    yield from _json_rows(file, path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: not a zip file: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    """The rows of a parquet file."""
    import pyarrow.parquet

    number = 0
    with reading(path), pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=16):  # few at a time: rows may hold pictures
            for fields in batch.to_pylist():
                yield Row(f"{path}: row {number}", f"{path.name}:{number}", fields)
                number += 1


def _json_rows(file: TextIO, path: Path) -> Iterator[Row]:
    """The rows of a JSON array, or of objects one a line, whatever the file is called."""
    blank = ""
    while (first := file.read(1)).isspace():
        blank += first
    if first == "[":
        for number, value in enumerate(Array(file, str(path))):
            yield _row(f"{path}: row {number}", f"{path.name}:{number}", value)
        return
    for number, line in enumerate(_lines(first, file), 1 + blank.count("\n")):
        if not line.isspace():
            yield _line(line, f"{path}:{number}", f"{path.name}:{number}")


def _lines(first: str, file: TextIO) -> Iterator[str]:
    """The lines of a file whose first character was read already."""
    line = first + file.readline(MAX_BYTES)
    while line:
        require(len(line) < MAX_BYTES, f"{file.name}: a line is longer than {MAX_BYTES} characters")
        yield line
        line = file.readline(MAX_BYTES)


def _line(line: str, where: str, id: str) -> Row:
    """A line as a row, or a row that says why it cannot be read."""
    try:
        return _row(where, id, json.loads(line))
    except RecursionError:
        return Row(where, id, error="not valid JSON: nested too deep")
    except ValueError as error:
        return Row(where, id, error=f"not valid JSON: {one_line(error)}")


def _row(where: str, id: str, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(where, id, error=f"a row must be an object, got {value!r:.60}")
    return Row(where, id, value)


def unknown_fields(fields: dict[str, Any], known: Collection[str], path: str = "") -> set[str]:
    """The dotted paths of what a row holds and a format does not know; lists are looked into, where `known` does."""
    listed = [f"{path}{name}" for name in fields]
    outer = {name.rpartition(".")[0] for name in known}
    found = {*listed} - {*known}
    for here, value in zip(listed, fields.values()):
        if here not in outer:
            continue
        for inner in _objects(value):
            found |= unknown_fields(inner, known, f"{here}.")
    return found


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, or of a single one."""
    return [each for each in as_list(value) if isinstance(each, dict)]
