"""Records in parquet, read a row group at a time: Parquet, GroupCache.

Columns of bytes, which hold media and tokens, are read for the rows that are asked for, the others for outlines. Row
groups that were decoded are kept up to a limit, over all files of the process. Beyond it they are read again, so that a
set of any size costs no more memory. For such a set, `data.block` keeps neighbours together in the shuffle.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any

from mot_gen.data.encoded import outlined
from mot_gen.data.notices import Notices
from mot_gen.data.parsing import Resolve, parse_record, path_in
from mot_gen.data.remote import is_far
from mot_gen.data.samples import Sample
from mot_gen.data.sources import Source
from mot_gen.errors import InputError, one_line
from mot_gen.files.suffixes import PICTURES

if TYPE_CHECKING:
    import pyarrow

KEPT = 2**29  # bytes of decoded row groups


class GroupCache:
    """Decoded row groups by key, the least recently used given up beyond `limit` bytes; the last one always stays."""

    def __init__(self, limit: int):
        self.limit = limit
        self.size = 0
        self._tables: OrderedDict[Any, pyarrow.Table] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Any, read: Callable[[], pyarrow.Table]) -> pyarrow.Table:
        """The table of a key; threads that want the same one wait for the first to read it."""
        with self._lock:
            if key not in self._tables:
                self._tables[key] = table = read()
                self.size += table.nbytes
                while self.size > self.limit and len(self._tables) > 1:
                    self.size -= self._tables.popitem(last=False)[1].nbytes
            self._tables.move_to_end(key)
            return self._tables[key]


_decoded = GroupCache(KEPT)


class Parquet(Source):
    """One record a row, under the same names as in JSON; media as bytes, as {bytes, path}, or as paths.

    A column `jpg`, `png` or another kind of picture is the image, as img2dataset writes it. A row whose download failed
    has none and is left out.
    """

    def _scan(self) -> None:
        import pyarrow
        import pyarrow.parquet

        try:
            self._file = pyarrow.parquet.ParquetFile(self.path.open("rb") if is_far(self.path) else self.path)
            self._scan_rows()
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"{self.path}: not a parquet file: {one_line(error)}") from None
        except pyarrow.ArrowException as error:
            raise InputError(f"{self.path}: cannot be read: {one_line(error)}") from None

    def _scan_rows(self) -> None:
        about = self._file.metadata
        groups = range(about.num_row_groups)
        self._ends = list(accumulate(about.row_group(group).num_rows for group in groups))
        self._numbers = array("Q")  # of the rows that are records
        names = self._file.schema_arrow.names
        self._picture = _picture_column(names)
        self._light = [path for path, heavy in _columns(self._file.schema) if not heavy]
        self._bare = _bare(names, self._light)
        for number, row in enumerate(self._rows()):
            self._row(row, number)
        self._content.update(repr([about.row_group(group).total_byte_size for group in groups]).encode())

    def _row(self, row: dict[str, Any], number: int) -> None:
        raw = repr(row).encode(errors="surrogatepass")
        try:
            record = self._record(row)
            if self._picture and "image" not in record and not self._without_picture(record, number):
                return
            sample = self._parse(record, number, _unread, self._notices)
        except InputError as error:
            self._broken.note(str(error))
            return
        self._add(sample, raw)
        self._numbers.append(number)

    def _without_picture(self, record: dict[str, Any], number: int) -> bool:
        """Whether a row without a picture is a record all the same; either is noted."""
        if "messages" in record or "content" in record:
            return True
        where = f"{self.path}: row {number}"
        status = record.get("status")
        if status not in (None, "success"):
            self._notices.note("rows whose picture was not downloaded, which are left out", f"{where}: {status!s:.60}")
            return False
        if "text" in record:
            self._notices.note("rows without their picture, of which the text alone is learned", where)
        return True

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Every row without its bytes; a row group at a time, none kept."""
        for group in range(len(self._ends)):
            for batch in self._outlines(group).to_batches(max_chunksize=256):
                yield from batch.to_pylist()

    def _outlines(self, group: int) -> pyarrow.Table:
        """A row group without its bytes; of a column that holds nothing else, which rows have any."""
        table = self._file.read_row_group(group, columns=self._light)
        for name in self._bare:
            table = table.append_column(name, self._file.read_row_group(group, columns=[name])[name].is_valid())
        return table

    def _record(self, row: dict[str, Any]) -> dict[str, Any]:
        """The fields of a row that are there, the picture as `image`."""
        record = {}
        for name, value in row.items():
            missing = value is None or (value is False and name in self._bare)
            if not missing:
                record["image" if name == self._picture else name] = value
        return record

    def _parse(self, record: dict[str, Any], number: int, resolve: Resolve, notices: Notices | None = None) -> Sample:
        return parse_record(record, f"{self.path}: row {number}", f"{self.path.name}:{number}", resolve, notices)

    def sample(self, index: int) -> Sample:
        return self._read(index, "whole", self._file.read_row_group, path_in(self.path.parent))

    def outline(self, index: int) -> Sample:
        return self._read(index, "outline", self._outlines, _unread)

    def _read(self, index: int, what: str, read: Callable[[int], pyarrow.Table], resolve: Resolve) -> Sample:
        import pyarrow

        number = self._numbers[range(len(self))[index]]
        group = bisect_right(self._ends, number)
        try:
            table = _decoded.get((str(self.path), self.fingerprint, group, what), lambda: read(group))
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{self.path}: row {number}: cannot be read: {one_line(error)}") from None
        row = number - (self._ends[group - 1] if group else 0)
        return self._parse(self._record(table.slice(row, 1).to_pylist()[0]), number, resolve)


def _unread(value: Any, field: str) -> Any:
    """In the place of a medium nothing, of its tokens how many there are."""
    return outlined(value) if isinstance(value, dict) and value.get("fingerprint") else None


def _picture_column(names: list[str]) -> str | None:
    """The column that holds the pictures: image, or one that is called like a suffix of pictures."""
    if "image" in names:
        return "image"
    for name in names:
        if f".{name.lower()}" in PICTURES:
            return name
    return None


def _columns(schema: Any) -> list[tuple[str, bool]]:
    """Every leaf of a parquet schema by its dotted path, and whether it is bytes that may wait. Bytes that are all that
    a struct within a list holds are read at once: without them it could not be seen that there is a medium."""
    leaves = [schema.column(number) for number in range(len(schema))]
    heavy = [leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "NONE" for leaf in leaves]
    parents = {leaf.path.rpartition(".")[0] for leaf, waits in zip(leaves, heavy) if not waits}

    def alone(path: str) -> bool:
        parent = path.rpartition(".")[0]
        return ".list." in path and not any(f"{known}.".startswith(f"{parent}.") for known in parents)

    return [(leaf.path, waits and not alone(leaf.path)) for leaf, waits in zip(leaves, heavy)]


def _bare(names: list[str], light: list[str]) -> list[str]:
    """Top columns of which no leaf is light."""
    known = {path.partition(".")[0] for path in light}
    return [name for name in names if name not in known]
