"""Reading other people's data sets: Row, rows, Media, Unconvertible, unknown_fields, text_part, image_part.

`rows` reads JSON arrays, JSON lines, both also zipped, and parquet, one row at a time, however long the file is. A byte
order mark is dropped. Bytes that are no UTF-8 pass as surrogates, which cannot be written again; so the row is found
out, and the others are read. `Media` finds the files that rows name.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from mot_gen.data.texts import is_text
from mot_gen.errors import InputError, one_line
from mot_gen.files.json_files import MAX_BYTES
from mot_gen.files.suffixes import find, is_hidden

GAP = re.compile(r"[\s,]*")  # between the elements of an array
JSON = (".json", ".jsonl", ".ndjson")
SUFFIXES = (*JSON, ".zip", ".parquet")
ENCODING = "utf-8-sig"  # drops a byte order mark
DOWNLOADS = ("url", "key", "status")  # columns of img2dataset's tables
DOWNLOADED = (".jpg", ".png", ".webp")  # suffixes of its pictures
CHUNK = 2**20  # characters that are read of an array at once


class Unconvertible(ValueError):
    """A row that is no record: the message says what of it."""


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
        if self.fields.get(name) is None:
            raise Unconvertible(f"has no {name}; its fields are {', '.join(self.fields) or 'none'}")
        return self.fields[name]


# ---------------------------------------------------------------- rows


def rows(source: Path) -> Iterator[Row]:
    """The rows of a file, or of all files with one of SUFFIXES below a folder, in the order of their names."""
    for path in files(source, SUFFIXES):
        try:
            yield from _rows_of(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def files(source: Path, suffixes: Collection[str]) -> list[Path]:
    """`source` itself, or the files below it with one of the suffixes; InputError where there is none."""
    kinds = ", ".join(suffixes)
    if source.is_dir():
        found = find(source, suffixes)
        if not found:
            raise InputError(f"{source}: holds no file of {kinds}")
        return found
    if not source.is_file():
        raise InputError(f"{source}: no such file or folder")
    if source.suffix.lower() not in suffixes:
        raise InputError(f"{source}: {source.suffix or 'no suffix'} cannot be read; give {kinds} or a folder")
    return [source]


def _rows_of(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path)
    elif suffix == ".zip":
        yield from _zipped(path)
    else:
        with path.open(encoding=ENCODING, errors="surrogateescape") as file:
            yield from _json_rows(file, path)


def _zipped(path: Path) -> Iterator[Row]:
    """Members are read where they lie, never extracted."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(JSON) and not is_hidden(name)]
            for name in sorted(names):
                with archive.open(name) as member, io.TextIOWrapper(member, ENCODING, "surrogateescape") as file:
                    yield from _json_rows(file, path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: not a zip file: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=16):  # few at a time: rows may hold pictures
                for fields in batch.to_pylist():
                    yield Row(f"{path}: row {number}", f"{path.name}:{number}", fields)
                    number += 1
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{path}: not a parquet file: {one_line(error)}") from None


def _json_rows(file: TextIO, path: Path) -> Iterator[Row]:
    """Of an array, or of objects one a line, whatever the file is called."""
    first = file.read(1)
    while first.isspace():
        first = file.read(1)
    if first == "[":
        for number, value in enumerate(_elements(file, path)):
            yield _row(f"{path}: row {number}", f"{path.name}:{number}", value)
        return
    for number, line in enumerate(_lines(first, file), 1):
        if line.strip():
            yield _line(line, f"{path}:{number}", f"{path.name}:{number}")


def _lines(first: str, file: TextIO) -> Iterator[str]:
    line = first + file.readline(MAX_BYTES)
    while line:
        if len(line) >= MAX_BYTES:
            raise InputError(f"{file.name}: a line is longer than {MAX_BYTES} characters")
        yield line
        line = file.readline(MAX_BYTES)


def _line(line: str, where: str, id: str) -> Row:
    try:
        return _row(where, id, json.loads(line))
    except RecursionError:
        return Row(where, id, error="not valid JSON: nested too deep")
    except ValueError as error:
        return Row(where, id, error=f"not valid JSON: {error}")


def _row(where: str, id: str, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(where, id, error=f"a row must be an object, got {value!r:.60}")
    return Row(where, id, value)


def _elements(file: TextIO, path: Path, chunk: int = CHUNK) -> Iterator[Any]:
    """The elements of a JSON array whose bracket has been read, one at a time: LLaVA's files are of a gigabyte."""
    decoder = json.JSONDecoder()
    text, at, number, size = "", 0, 0, chunk
    ended = False
    while True:
        at = _past_gap(text, at)
        if text.startswith("]", at):
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError:
            raise InputError(f"{path}: row {number}: not valid JSON: nested too deep") from None
        except ValueError as error:
            if ended:
                raise InputError(f"{path}: row {number}: not valid JSON, perhaps cut off: {error}") from None
        else:
            # A number at the end of what was read may have more digits.
            if end < len(text) or ended:
                yield value
                at, number, size = end, number + 1, chunk
                continue
        if len(text) - at > MAX_BYTES:
            raise InputError(f"{path}: row {number} is longer than {MAX_BYTES} characters")
        more = file.read(size)
        text, at, ended, size = text[at:] + more, 0, not more, 2 * size


def _past_gap(text: str, at: int) -> int:
    gap = GAP.match(text, at)
    assert gap is not None  # it may be empty
    return gap.end()


def unknown_fields(fields: dict[str, Any], known: Collection[str], path: str = "") -> set[str]:
    """The dotted paths of what a row holds and a format does not know; lists are looked into, where `known` does."""
    found = set()
    for name, value in fields.items():
        here = f"{path}{name}"
        if here not in known:
            found.add(here)
        elif any(other.startswith(f"{here}.") for other in known):
            for inner in _objects(value):
                found |= unknown_fields(inner, known, f"{here}.")
    return found


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, or of a single one."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, dict)]


# ---------------------------------------------------------------- media


class Media:
    """Finds the files that rows name, in `roots`, one after the other.

    An address of the web is looked up in the tables that img2dataset (`--output_format files`) leaves beside the
    pictures: `00000.parquet` with `url`, `key` and `status`, the picture being `00000/KEY.jpg`
    (github.com/rom1504/img2dataset, img2dataset/writer.py). `missing`: what `seek` has not found.
    """

    def __init__(self, roots: Sequence[Path]):
        self.roots = roots
        self.missing: list[str] = []

    def find(self, value: Any) -> Path | bytes:
        """What a row says of a picture, a name, bytes, or Hugging Face's {bytes, path}, as file or bytes."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value:
            raise Unconvertible(f"a picture must be a name or bytes, got {value!r:.60}")
        found = self._downloaded(value) if "://" in value else self._file(value)
        if found is None:
            where = " or ".join(map(str, self.roots))
            raise Unconvertible(f"{value} is not in {where}; say --media DIR")
        return found

    def seek(self, value: Any) -> Path | bytes | None:
        """As `find`, but None for what is not there, which is noted: of web pages, some pictures are always gone."""
        try:
            return self.find(value)
        except Unconvertible as error:
            self.missing.append(str(error))
            return None

    def _file(self, name: str) -> Path | None:
        """The file of a name in one of the roots; a name that leads out of them finds nothing."""
        if "\0" in name or not is_text(name):
            return None
        for root in self.roots:
            path = root / name
            inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))
            if inside and path.is_file():
                return path
        return None

    def _downloaded(self, url: str) -> Path | None:
        stem = self._by_url.get(url)
        if stem is None:
            return None
        for suffix in DOWNLOADED:
            path = stem.with_name(f"{stem.name}{suffix}")
            if path.is_file():
                return path
        return None

    @cached_property
    def _by_url(self) -> dict[str, Path]:
        import pyarrow.parquet

        found: dict[str, Path] = {}
        tables: list[Path] = []
        for root in self.roots:
            tables += sorted(root.glob("*.parquet"))
        for table in tables:
            if not set(DOWNLOADS) <= set(pyarrow.parquet.read_schema(table).names):
                continue
            rows = pyarrow.parquet.read_table(table, columns=list(DOWNLOADS)).to_pydict()
            for url, key, status in zip(*(rows[name] for name in DOWNLOADS)):
                if status == "success" and "/" not in key:
                    found[url] = table.with_suffix("") / key
        return found


# ---------------------------------------------------------------- parts of records


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image_part(image: Path | bytes) -> dict[str, Any]:
    return {"type": "image", "image": image}
