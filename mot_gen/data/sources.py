"""Sources: the samples of one file or folder, in its order. Source, JsonLines, NoRecord.

A source keeps positions in memory, not contents, and reads on access. `outline(index)` is a sample whose media were not
read: in their place stands None, which is all that arranging it and knowing its texts needs. Folders are in folder.py,
tar files in tar.py, parquet in parquet.py.

A record that cannot be read does not end the reading of the others. It is left out, counted and named in `broken`;
training takes as many as `training.max_corrupt` says.
"""

from __future__ import annotations

import hashlib
import tarfile
from abc import abstractmethod
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mot_gen.data.notices import Notice, Notices
from mot_gen.data.parsing import parse_record, path_in
from mot_gen.data.remote import Ranges, Spool, is_far, place
from mot_gen.data.samples import Pair, Sample, Samples, kinds_of, sample_key
from mot_gen.errors import InputError, cause
from mot_gen.files import json_files

SHOWN = 3  # broken records that a message names


class NoRecord(InputError):
    """A file or folder without a record that can be read. broken: those that cannot."""

    def __init__(self, message: str, broken: Notice):
        super().__init__(message)
        self.broken = broken

    @classmethod
    def of(cls, errors: Sequence[InputError]) -> NoRecord:
        """Several errors as one, with all the records that they name."""
        broken = Notice()
        for error in errors:
            broken.add(error.broken if isinstance(error, NoRecord) else Notice(1, [str(error)]))
        return cls("; ".join(map(str, errors)), broken)


class Source(Samples):
    """The samples of one file or folder, in its order."""

    def __init__(self, path: str | Path, outside_media: bool = False):
        """path: also an address, see remote.py. outside_media: whether records may name media outside of their folder.
        InputError for what cannot be read."""
        self.path: Any = place(path)
        self.outside_media = outside_media
        self.keys = array("Q")
        self._content = hashlib.sha256()
        self._notices, self._broken = Notices(), Notice()
        self._kinds: Counter[str] = Counter()
        try:
            self._scan()
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{path}: cannot be read: {cause(error)}") from None
        if not self.keys:
            raise NoRecord(self._no_record(), self._broken)
        self.fingerprint = self._content.hexdigest()

    @abstractmethod
    def _scan(self) -> None:
        """Read every record and give it to `_add`, or why it cannot be read to `self._broken`."""

    def _no_record(self) -> str:
        """What to say where there is no record that can be read."""
        if not self._broken.count:
            left_out = self._notices.lines(shown=1)
            return "; ".join([f"{self.path}: holds no record", *left_out])
        first = self._broken.first(SHOWN)
        if self._broken.count == 1:
            return first
        return f"{first}; none of the {self._broken.count:,} records of {self.path} can be read"

    def _add(self, sample: Sample, raw: bytes) -> None:
        """Take in the next sample. raw: what its content follows from."""
        self.keys.append(sample_key(sample.id))
        if isinstance(sample, Pair) and not sample.captions:
            self._notices.note("pictures without a caption", sample.id)
        self._kinds.update(kinds_of(sample))
        self._content.update(len(raw).to_bytes(8))
        self._content.update(raw)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def source_names(self) -> list[str]:
        return [str(self.path)]

    @property
    def notices(self) -> Notices:
        return self._notices

    @property
    def broken(self) -> Notice:
        return self._broken

    @property
    def kinds(self) -> Counter[str]:
        return self._kinds


class JsonLines(Source):
    """One record a line; media are paths relative to the file."""

    def _scan(self) -> None:
        self._numbers, self._starts, self._sizes = array("Q"), array("Q"), array("Q")
        spool = Spool() if is_far(self.path) else None
        self._text: Spool | Ranges = spool or Ranges(self.path)
        start = 0
        for number, line in json_files.lines(self.path):
            if spool:
                spool.add(line)
            if not line.isspace():
                self._line(line, number, start)
            start += len(line)

    def _no_record(self) -> str:
        with self.path.open("rb") as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        if self._broken.count and start.startswith((b"[{", b"[\n", b"[\r", b"{\n", b"{\r")):
            return f"{self._broken.samples[0]}; a record is one line, so write each object on a line of its own"
        return super()._no_record()

    def _line(self, line: bytes, number: int, start: int) -> None:
        """Take in a line if it is a record that can be read."""
        with self._broken.catching():
            self._add(self._parse(line, number, self._notices), line)
            self._numbers.append(number)
            self._starts.append(start)
            self._sizes.append(len(line))

    def _parse(self, line: bytes, number: int, notices: Notices | None = None) -> Sample:
        where = f"{self.path}:{number}"
        resolve = path_in(self.path.parent, self.outside_media)
        return parse_record(json_files.parse(line, where), where, f"{self.path.name}:{number}", resolve, notices)

    def sample(self, index: int) -> Sample:
        return self._parse(self._text.read(self._starts[index], self._sizes[index]), self._numbers[index])
