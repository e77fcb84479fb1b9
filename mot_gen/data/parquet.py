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

from mot_gen.data.encoded import outline_of
from mot_gen.data.notices import Notices
from mot_gen.data.parsing import Resolve, parse_record, path_in
from mot_gen.data.remote import is_far
from mot_gen.data.samples import Sample
from mot_gen.data.sources import Source
from mot_gen.files.parquet_files import reading
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
        import pyarrow.parquet

        with reading(self.path):
            source = self.path.open("rb") if is_far(self.path) else self.path
            self._file = pyarrow.parquet.ParquetFile(source)
            self._scan_rows()

    def _scan_rows(self) -> None:
        """Read every row without its bytes, and note where each row group begins."""
        about = self._file.metadata
        groups = range(about.num_row_groups)
        self._starts = [0, *accumulate(about.row_group(group).num_rows for group in groups)][:-1]
        self._numbers = array("Q")  # of the rows that are records
        names = self._file.schema_arrow.names
        self._picture = _picture_column(names)
        self._light = _light(self._file.schema)
        self._bare = _bare(names, self._light)
        for number, row in enumerate(self._rows()):
            self._row(row, number)
        self._content.update(repr([about.row_group(group).total_byte_size for group in groups]).encode())

    def _row(self, row: dict[str, Any], number: int) -> None:
        """Take in a row if it is a record that can be read."""
        raw = repr(row).encode(errors="surrogatepass")
        record = self._record(row)
        if self._was_not_downloaded(record, number):
            return
        with self._broken.catching():
            self._add(self._parse(record, number, _unread, self._notices), raw)
            self._numbers.append(number)

    def _was_not_downloaded(self, record: dict[str, Any], number: int) -> bool:
        """Whether a row says of its picture that it is not there. That, and a text without its picture, is noted."""
        if not self._picture or record.keys() & {"image", "audio", "messages", "content"}:
            return False
        where, status = f"{self.path}: row {number}", record.get("status")
        failed = status not in (None, "success")
        if failed:
            self._notices.note("rows whose picture was not downloaded, which are left out", f"{where}: {status!s:.60}")
        elif "text" in record:
            self._notices.note("rows without their picture, of which the text alone is learned", where)
        return failed

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Every row without its bytes; a row group at a time, none kept."""
        for group in range(len(self._starts)):
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
        bare = {name for name in self._bare if row.get(name) is False}
        record = {name: value for name, value in row.items() if value is not None and name not in bare}
        if self._picture in record:
            record["image"] = record.pop(self._picture)
        return record

    def _parse(self, record: dict[str, Any], number: int, resolve: Resolve, notices: Notices | None = None) -> Sample:
        return parse_record(record, f"{self.path}: row {number}", f"{self.path.name}:{number}", resolve, notices)

    def sample(self, index: int) -> Sample:
        resolve = path_in(self.path.parent, self.outside_media)
        return self._read(index, "whole", self._file.read_row_group, resolve)

    def outline(self, index: int) -> Sample:
        return self._read(index, "outline", self._outlines, _unread)

    def _read(self, index: int, what: str, read: Callable[[int], pyarrow.Table], resolve: Resolve) -> Sample:
        """A sample out of its row group, which is decoded by `read` unless it was kept."""
        number = self._numbers[range(len(self))[index]]
        group = bisect_right(self._starts, number) - 1
        with reading(self.path, f"{self.path}: row {number}"):
            table = _decoded.get((str(self.path), self.fingerprint, group, what), lambda: read(group))
        (row,) = table.slice(number - self._starts[group], 1).to_pylist()
        return self._parse(self._record(row), number, resolve)


def _unread(value: Any, field: str) -> Any:
    """What stands for a medium that is not read: nothing, or the number of its tokens."""
    given = value if isinstance(value, dict) else {}
    return outline_of(given) if given.get("fingerprint") else None


def _picture_column(names: list[str]) -> str | None:
    """The column that holds the pictures: image, or one that is called like a suffix of pictures."""
    called_like_one = (name for name in names if f".{name.lower()}" in PICTURES)
    return "image" if "image" in names else next(called_like_one, None)


def _light(schema: Any) -> list[str]:
    """The dotted paths of the leaves of a parquet schema that are read for outlines: all but bytes.

    Bytes that are all that a struct within a list holds are read too: without them it could not be seen that there is
    a medium.
    """
    leaves = list(map(schema.column, range(len(schema))))
    light = [leaf.path for leaf in leaves if not _is_bytes(leaf)]

    def alone(path: str) -> bool:
        parent = path.rpartition(".")[0]
        return ".list." in path and not any(known.startswith(f"{parent}.") for known in light)

    return [leaf.path for leaf in leaves if leaf.path in light or alone(leaf.path)]


def _is_bytes(leaf: Any) -> bool:
    """Whether a leaf holds bytes that are no text."""
    return leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "NONE"


def _bare(names: list[str], light: list[str]) -> list[str]:
    """Top columns of which no leaf is light."""
    known = {path.partition(".")[0] for path in light}
    return [name for name in names if name not in known]
