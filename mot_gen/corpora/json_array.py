"""A JSON array read one element at a time, however long it is: Array. LLaVA's files are of a gigabyte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from mot_gen.errors import InputError, require
from mot_gen.files.json_files import MAX_BYTES

GAP = re.compile(r"[\s,]*")  # between the elements of an array
CHUNK = 2**20  # characters that are read at once


class Array:
    """The elements of a JSON array whose opening bracket has been read. where: begins every error."""

    def __init__(self, file: TextIO, where: str, chunk: int = CHUNK):
        self._file, self._where, self._chunk = file, where, chunk
        self._decoder = json.JSONDecoder()
        self._text, self._place, self._ended = "", 0, False  # what was read and not yet used begins at `place`
        self._number = 0  # of the next element

    def __iter__(self) -> Iterator[Any]:
        while self._next_character() != "]":
            yield self._element()
            self._number += 1

    def _next_character(self) -> str:
        """The first character of the next element, or the closing bracket; "" at the end of the file."""
        self._skip_gap()
        while self._place == len(self._text) and not self._ended:
            self._read(self._chunk)
            self._skip_gap()
        return self._text[self._place : self._place + 1]

    def _skip_gap(self) -> None:
        gap = GAP.match(self._text, self._place)
        assert gap is not None  # it may be empty
        self._place = gap.end()

    def _element(self) -> Any:
        """The value that begins here; more is read, each time twice as much, until all of it is there."""
        size = self._chunk
        while True:
            value, end = self._decoded()
            # A number at the end of what was read may have more digits.
            whole = self._ended or end < len(self._text)
            if end and whole:
                self._place = end
                return value
            self._read(size)
            size *= 2

    def _decoded(self) -> tuple[Any, int]:
        """The value that begins here and where it ends; the end is 0 where not all of it was read."""
        where = f"{self._where}: row {self._number}"
        try:
            return self._decoder.raw_decode(self._text, self._place)
        except RecursionError:
            raise InputError(f"{where}: not valid JSON: nested too deep") from None
        except ValueError as error:
            require(not self._ended, f"{where}: not valid JSON, perhaps cut off: {error}")
            return None, 0

    def _read(self, size: int) -> None:
        left = self._text[self._place :]
        require(len(left) <= MAX_BYTES, f"{self._where}: row {self._number} is longer than {MAX_BYTES} characters")
        more = self._file.read(size)
        self._text, self._place, self._ended = left + more, 0, not more
