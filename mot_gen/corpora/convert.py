"""Rows of another format into records: convert, ConversionReport.

The output is whole or not there: a failure, Ctrl-C or a full disk leave nothing that training could take for a set.
Every record is tried with `parse_record`, which training reads with.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from mot_gen.corpora import formats
from mot_gen.corpora.foreign import Media, Row, Unconvertible, convertible, unknown_fields
from mot_gen.data.parsing import parse_record
from mot_gen.data.samples import Sample
from mot_gen.data.store import schema, to_record
from mot_gen.errors import InputError, cause, require
from mot_gen.files.atomic import writing
from mot_gen.files.progress import Progress

Write = Callable[[dict[str, Any], Sample], object]  # (record, the sample that it is)
ROW_GROUP = 256  # records that are read together where training reads parquet
# What a row of another shape than its format's makes a converter raise; each is counted, named and capped.
MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError)


@dataclass
class Tally:
    """How often something was seen, and where first."""

    count: int = 0
    first: str = ""

    def note(self, where: str) -> None:
        self.count, self.first = self.count + 1, self.first or where


@dataclass
class ConversionReport:
    """What a conversion came to.

    skipped: `where: why` of each row that is no record.
    unknown_fields: fields that the format does not know; the rows were converted without them.
    missing_media: pictures that were left out of web pages.
    outside_media: pictures that lie outside of the output's folder, so that training needs `data.outside_media`.
    """

    out: str
    rows: int = 0
    records: int = 0
    skipped: list[str] = field(default_factory=list)
    unknown_fields: dict[str, Tally] = field(default_factory=dict)
    missing_media: Tally = field(default_factory=Tally)
    outside_media: Tally = field(default_factory=Tally)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def convert(
    format: str, source: Path, out: Path, roots: Sequence[Path] = (), max_skipped: int = 20
) -> ConversionReport:
    """Write the rows of `source` as records to `out`, .jsonl or .parquet.

    format: one of `formats.names()`, or a dotted path. roots: where the pictures are that rows name; by default the
    source's folder. Raises InputError where `out` exists, nothing could be converted, or more than `max_skipped` rows.
    """
    module, source, out = formats.load(format), Path(source), Path(out)
    own_folder = source if source.is_dir() else source.parent
    media = Media([Path(root) for root in roots] or [own_folder])
    found = ConversionReport(str(out))
    with _writer(out, found.outside_media) as write, Progress(None, unit="row", interval=10) as bar:
        for row in _rows(module, source):
            _convert_row(row, module, media, write, found)
            bar.update(found.rows)
            _check_cap(found.skipped, max_skipped)
        first = f"; the first: {found.skipped[0]}" if found.skipped else ""
        require(found.records, f"{source}: none of its {found.rows} rows can be converted{first}")
    return found


def _rows(module: ModuleType, source: Path) -> Iterator[Row]:
    """The rows of a source. What cannot be read is named as that, apart from what cannot be written."""
    try:
        yield from module.rows(source)
    except OSError as error:
        raise InputError(f"{error.filename or source}: cannot be read: {cause(error)}") from None


def _check_cap(skipped: Sequence[str], most: int) -> None:
    if len(skipped) > most:
        raise InputError(
            f"rows that cannot be converted: {len(skipped)}, more than --max-skipped {most}; the last is {skipped[-1]}"
        )


def _convert_row(row: Row, module: ModuleType, media: Media, write: Write, found: ConversionReport) -> None:
    """Write all records of a row, or none."""
    found.rows += 1
    media.missing.clear()
    try:
        convertible(not row.error, row.error)
        made = [(record, _checked(record, row)) for record in module.records(row, media)]
    except MALFORMED as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        found.skipped.append(f"{row.where}: {reason.removeprefix(f'{row.where}: ')}")
        return
    for name in unknown_fields(row.fields, module.FIELDS):
        found.unknown_fields.setdefault(name, Tally()).note(row.where)
    for missing in media.missing:
        found.missing_media.note(f"{row.where}: {missing}")
    for record, sample in made:
        write(record, sample)
    found.records += len(made)


def _checked(record: dict[str, Any], row: Row) -> Sample:
    """The sample that training will see; InputError where it would see none."""
    _json(record)
    return parse_record(record, row.where, row.id, lambda value, field: value)


def _no_medium(medium: Any) -> None:
    """What stands for a medium where a record is only tried."""


def _json(record: dict[str, Any], default: Callable[[Any], Any] = _no_medium) -> bytes:
    """A record as one line. default: gives what stands for a medium."""
    try:
        return json.dumps(record, ensure_ascii=False, default=default).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise Unconvertible(f"its text is not UTF-8: {error.object[error.start : error.end]!r}") from None


# ---------------------------------------------------------------- writing


@contextmanager
def _writer(out: Path, outside: Tally) -> Iterator[Write]:
    """A function that writes a record. The file gets its name when the block ends well, and is removed if not.

    outside: counts the pictures that lie outside of the folder of `out`.
    """
    kinds = {".jsonl": _jsonl, ".parquet": _parquet}
    require(out.suffix in kinds, f"--out {out}: give a name that ends in {' or '.join(kinds)}")
    require(not out.exists(), f"--out {out}: exists; remove it, or give another name")
    try:
        with (
            writing(out, durable=True, alone=True) as part,
            part.open("wb") as file,
            kinds[out.suffix](file, out, outside) as write,
        ):
            yield write
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{error.filename or out}: {cause(error)}; {out} is not written") from None


@contextmanager
def _jsonl(file: BinaryIO, out: Path, outside: Tally) -> Iterator[Write]:
    """Media that are bytes become files of a folder beside, `records.media`, named by their content; paths stay, from
    the file's folder where they lie below it."""
    folder, aside = out.with_suffix(".media"), out.with_name(f".{out.stem}.media.part")
    here = Path(os.path.abspath(out.parent))

    def medium(value: Path | bytes) -> str:
        if isinstance(value, bytes):
            return f"{folder.name}/{_keep(value, aside)}"
        path = Path(os.path.abspath(value))  # not resolved: a link to where media lie is for the owner to move
        if path.is_relative_to(here):
            return str(path.relative_to(here))
        outside.note(str(path))
        return str(path)

    shutil.rmtree(aside, ignore_errors=True)
    try:
        yield lambda record, sample: file.write(_json(record, medium))
        if aside.exists():
            file.flush()
            taken = f"{folder}: exists, and would hold the pictures; remove it, or give another --out"
            require(not folder.exists(), taken)
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _keep(picture: bytes, folder: Path) -> str:
    """Write a picture into a folder, under a name that follows from its content; returns the name."""
    name = f"{hashlib.sha256(picture).hexdigest()[:32]}{_suffix(picture)}"
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        (folder / name).write_bytes(picture)
    return name


def _suffix(picture: bytes) -> str:
    """The suffix of a picture's file name, by its first bytes; none for unknown ones."""
    suffixes = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp"}
    return next((suffix for start, suffix in suffixes.items() if picture.startswith(start)), "")


@contextmanager
def _parquet(file: BinaryIO, out: Path, outside: Tally) -> Iterator[Write]:
    """Media as bytes in the rows, which training reads from one file."""
    import pyarrow
    import pyarrow.parquet

    waiting: list[dict[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(file, schema(), compression="zstd") as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema()))
                waiting.clear()

        def write(record: dict[str, Any], sample: Sample) -> None:
            waiting.append(to_record(sample))
            if len(waiting) == ROW_GROUP:
                flush()

        yield write
        flush()
