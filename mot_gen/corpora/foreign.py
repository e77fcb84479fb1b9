"""Reading other people's data sets: Row, rows, Media, Unconvertible, unknown_fields, text_part, image_part.

`rows` reads JSON arrays, JSON lines, both also zipped, and parquet, one row at a time, however long the file is. Bytes
that are no UTF-8 pass as surrogates, which cannot be written again: so the row is found out, and the others are read.
`Media` finds the files that rows name.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from mot_gen.errors import InputError

GAP = re.compile(r"[\s,]*")  # between the elements of an array
SUFFIXES = (".json", ".jsonl", ".ndjson", ".zip", ".parquet")


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
        found = sorted(p for p in source.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
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
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            yield from _json_rows(file, path)


def _zipped(path: Path) -> Iterator[Row]:
    """Members are read where they lie, never extracted."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(n for n in archive.namelist() if n.endswith((".json", ".jsonl", ".ndjson"))):
                with archive.open(name) as member, io.TextIOWrapper(member, "utf-8", errors="surrogateescape") as file:
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
        raise InputError(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from None


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
    yield first + file.readline()
    yield from file


def _line(line: str, where: str, id: str) -> Row:
    try:
        return _row(where, id, json.loads(line))
    except ValueError as error:
        return Row(where, id, error=f"not valid JSON: {error}")


def _row(where: str, id: str, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(where, id, error=f"a row must be an object, got {value!r:.60}")
    return Row(where, id, value)


def _elements(file: TextIO, path: Path, chunk: int = 1 << 20) -> Iterator[Any]:
    """The elements of a JSON array whose bracket has been read, one at a time: LLaVA's files are of a gigabyte."""
    decoder, text, at, number, ended, size = json.JSONDecoder(), "", 0, 0, False, chunk
    while True:
        at = GAP.match(text, at).end()
        if text.startswith("]", at):
            return
        try:
            value, end = decoder.raw_decode(text, at)
            # A number at the end of what was read may have more digits.
            if end < len(text) or ended:
                yield value
                at, number, size = end, number + 1, chunk
                continue
        except ValueError as error:
            if ended:
                raise InputError(f"{path}: row {number}: not valid JSON, perhaps cut off: {error}") from None
        more = file.read(size)
        text, at, ended, size = text[at:] + more, 0, not more, 2 * size


def unknown_fields(fields: dict[str, Any], known: Collection[str], path: str = "") -> set[str]:
    """The dotted paths of what a row holds and a format does not know; lists are looked into, where `known` does."""
    found = set()
    for name, value in fields.items():
        here = f"{path}{name}"
        if here not in known:
            found.add(here)
        elif any(other.startswith(f"{here}.") for other in known):
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, dict):
                    found |= unknown_fields(inner, known, f"{here}.")
    return found


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
        return next((path for root in self.roots if (path := root / name).is_file()), None)

    def _downloaded(self, url: str) -> Path | None:
        stem = self._by_url.get(url)
        names = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".jpg", ".png", ".webp")) if stem else ()
        return next((path for path in names if path.is_file()), None)

    @cached_property
    def _by_url(self) -> dict[str, Path]:
        import pyarrow.parquet

        found = {}
        for table in (table for root in self.roots for table in sorted(root.glob("*.parquet"))):
            if {"url", "key", "status"} <= set(pyarrow.parquet.read_schema(table).names):
                columns = pyarrow.parquet.read_table(table, columns=["url", "key", "status"]).to_pydict()
                for url, key, status in zip(*columns.values()):
                    if status == "success":
                        found[url] = table.with_suffix("") / key
        return found


# ---------------------------------------------------------------- parts of records


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image_part(image: Path | bytes) -> dict[str, Any]:
    return {"type": "image", "image": image}
