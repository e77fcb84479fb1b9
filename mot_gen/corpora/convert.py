"""Rows of another format into records: convert, Converted.

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
from mot_gen.corpora.foreign import Media, Row, Unconvertible, unknown_fields
from mot_gen.data.parsing import parse_record
from mot_gen.data.samples import Sample
from mot_gen.data.store import schema, to_record
from mot_gen.errors import InputError
from mot_gen.files.progress import Progress
from mot_gen.files.whole import writing

Write = Callable[[dict[str, Any], Sample], object]  # (record, the sample that it is)
ROW_GROUP = 256  # records that are read together where training reads parquet
# What a row of another shape than its format's makes a converter raise; each is counted, named and capped.
MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError)


@dataclass
class Noted:
    """How often something was seen, and where first."""

    count: int = 0
    first: str = ""

    def note(self, where: str) -> None:
        self.count, self.first = self.count + 1, self.first or where


@dataclass
class Converted:
    """What a conversion came to.

    skipped: `where: why` of each row that is no record. unknown_fields: fields that the format does not know; the rows
    were converted without them. missing_media: pictures that were left out of web pages.
    """

    out: str
    rows: int = 0
    records: int = 0
    skipped: list[str] = field(default_factory=list)
    unknown_fields: dict[str, Noted] = field(default_factory=dict)
    missing_media: Noted = field(default_factory=Noted)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def convert(format: str, source: Path, out: Path, roots: Sequence[Path] = (), max_skipped: int = 20) -> Converted:
    """Write the rows of `source` as records to `out`, .jsonl or .parquet.

    format: one of `formats.names()`, or a dotted path. roots: where the pictures are that rows name; by default the
    source's folder. Raises InputError where `out` exists, nothing could be converted, or more than `max_skipped` rows.
    """
    module, source, out = formats.load(format), Path(source), Path(out)
    media = Media([Path(root) for root in roots] or [source if source.is_dir() else source.parent])
    found = Converted(str(out))
    with _writer(out) as write, Progress(None, unit="row", interval=10) as bar:
        for row in module.rows(source):
            _convert_row(row, module, media, write, found)
            bar.update(found.rows)
            if len(found.skipped) > max_skipped:
                raise InputError(
                    f"rows that cannot be converted: {len(found.skipped)}, more than --max-skipped {max_skipped}; "
                    f"the last is {found.skipped[-1]}"
                )
        if not found.records:
            first = f"; the first: {found.skipped[0]}" if found.skipped else ""
            raise InputError(f"{source}: none of its {found.rows} rows can be converted{first}")
    return found


def _convert_row(row: Row, module: ModuleType, media: Media, write: Write, found: Converted) -> None:
    """Write all records of a row, or none."""
    found.rows += 1
    media.missing.clear()
    try:
        if row.error:
            raise Unconvertible(row.error)
        made = [(record, _checked(record, row)) for record in module.records(row, media)]
    except MALFORMED as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        found.skipped.append(f"{row.where}: {reason.removeprefix(f'{row.where}: ')}")
        return
    for name in unknown_fields(row.fields, module.FIELDS):
        found.unknown_fields.setdefault(name, Noted()).note(row.where)
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
def _writer(out: Path) -> Iterator[Write]:
    """A function that writes a record. The file gets its name when the block ends well, and is removed if not."""
    kinds = {".jsonl": _jsonl, ".parquet": _parquet}
    if out.suffix not in kinds:
        raise InputError(f"--out {out}: give a name that ends in {' or '.join(kinds)}")
    if out.exists():
        raise InputError(f"--out {out}: exists; remove it, or give another name")
    try:
        with (
            writing(out, durable=True, alone=True) as part,
            part.open("wb") as file,
            kinds[out.suffix](file, out) as write,
        ):
            yield write
    except OSError as error:
        raise InputError(f"{error.filename or out}: {error.strerror or error}; {out} is not written") from None


@contextmanager
def _jsonl(file: BinaryIO, out: Path) -> Iterator[Write]:
    """Media that are bytes become files of a folder beside, `records.media`, named by their content; paths stay, from
    the file's folder where they lie below it."""
    folder, aside = out.with_suffix(".media"), out.with_name(f".{out.stem}.media.part")
    here = Path(os.path.abspath(out.parent))

    def medium(value: Path | bytes) -> str:
        if isinstance(value, bytes):
            aside.mkdir(exist_ok=True)
            name = f"{hashlib.sha256(value).hexdigest()[:32]}{_suffix(value)}"
            if not (aside / name).exists():
                (aside / name).write_bytes(value)
            return f"{folder.name}/{name}"
        path = Path(os.path.abspath(value))  # not resolved: a link to where media lie is for the owner to move
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    shutil.rmtree(aside, ignore_errors=True)
    try:
        yield lambda record, sample: file.write(_json(record, medium))
        if aside.exists():
            file.flush()
            if folder.exists():
                raise InputError(f"{folder}: exists, and would hold the pictures; remove it, or give another --out")
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _suffix(picture: bytes) -> str:
    """Of the file name that goes with a picture's first bytes; none where it is no known one."""
    for start, suffix in ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".webp")):
        if picture.startswith(start):
            return suffix
    return ""


@contextmanager
def _parquet(file: BinaryIO, out: Path) -> Iterator[Write]:
    """Media as bytes in the rows, which training reads from one file."""
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(file, schema(), compression="zstd") as writer:

        def flush() -> None:
            if rows:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema()))
                rows.clear()

        def write(record: dict[str, Any], sample: Sample) -> None:
            rows.append(to_record(sample))
            if len(rows) == ROW_GROUP:
                flush()

        yield write
        flush()
