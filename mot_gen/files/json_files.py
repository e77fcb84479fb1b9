"""JSON that others wrote, read with bounds: parse, read, lines. What is wrong with it is an InputError of one line.

Nesting that overflows Python's stack, numbers of thousands of digits, text that is no UTF-8 and a byte order mark are
all found in files that people bring. The mark is dropped; the others are errors that name the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError, one_line, require

MAX_BYTES = 2**28  # of one JSON text; a line of latents of a large picture has some 2**23


def parse(content: bytes | str, where: str) -> Any:
    """The value of one JSON text. `where` begins the error."""
    require(len(content) <= MAX_BYTES, f"{where}: {len(content)} bytes of JSON are more than {MAX_BYTES}; split it")
    try:
        return json.loads(content.encode() if isinstance(content, str) else content)
    except RecursionError:
        raise InputError(f"{where}: not valid JSON: nested too deep") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {one_line(error)}") from None


def read(path: Path) -> Any:
    """The value of a file. Raises InputError where it cannot be read; OSErrors of a missing file pass."""
    with path.open("rb") as file:
        return parse(file.read(MAX_BYTES + 1), str(path))


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, its bytes) of every line of a file, blank ones included, each of at most MAX_BYTES."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_BYTES + 1):
            number += 1
            require(len(line) <= MAX_BYTES, f"{path}:{number}: the line is longer than {MAX_BYTES} bytes")
            yield number, line
