"""Records in parquet, read a row group at a time: Parquet, GroupCache.

Columns of bytes, which hold media and tokens, are read for the rows that are asked for, the others for outlines. Row
groups that were decoded are kept up to a limit, over all files of the process; beyond it they are read again, so
that a set of any size costs no more memory. For such a set, `data.block` keeps neighbours together in the shuffle.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any

from mot_gen.data.encoded import outlined
from mot_gen.data.remote import is_far
from mot_gen.data.samples import Resolve, Sample, parse_record, path_in
from mot_gen.data.sources import Source
from mot_gen.errors import InputError

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
    """One record a row, under the same names as in JSON; media as bytes, as {bytes, path}, or as paths."""

    def _scan(self):
        import pyarrow
        import pyarrow.parquet

        try:
            self._file = pyarrow.parquet.ParquetFile(self.path.open("rb") if is_far(self.path) else self.path)
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"{self.path}: not a parquet file: {str(error).splitlines()[0]}") from None
        about = self._file.metadata
        self._ends = list(accumulate(about.row_group(group).num_rows for group in range(about.num_row_groups)))
        self._light = [path for path, heavy in _columns(self._file.schema) if not heavy]
        self._bare = _bare(self._file.schema_arrow.names, self._light)
        for number, row in enumerate(self._rows()):
            self._add(self._parse(row, number, _unread).id, repr(row).encode())
        sizes = [about.row_group(g).total_byte_size for g in range(about.num_row_groups)]
        self._content.update(repr(sizes).encode())

    def _rows(self) -> Iterator[dict]:
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

    def _parse(self, row: dict, number: int, resolve: Resolve) -> Sample:
        row = {name: value for name, value in row.items() if value is not None}
        for name in self._bare:
            if row.get(name) is False:
                del row[name]
        return parse_record(row, f"{self.path}: row {number}", f"{self.path.name}:{number}", resolve)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index, "whole", self._file.read_row_group, path_in(self.path.parent))

    def outline(self, index: int) -> Sample:
        return self._sample(index, "outline", self._outlines, _unread)

    def _sample(self, index: int, what: str, read: Callable[[int], pyarrow.Table], resolve: Resolve) -> Sample:
        number = range(len(self))[index]
        group = bisect_right(self._ends, number)
        table = _decoded.get((str(self.path), self.fingerprint, group, what), lambda: read(group))
        row = number - (self._ends[group - 1] if group else 0)
        return self._parse(table.slice(row, 1).to_pylist()[0], number, resolve)


def _unread(value: Any, field: str) -> Any:
    """In the place of a medium nothing, of its tokens how many there are."""
    return outlined(value) if isinstance(value, dict) and value.get("fingerprint") else None


def _columns(schema) -> list[tuple[str, bool]]:
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
