"""written_to: errors of a full or read-only disk become an InputError of one line."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mot_gen.errors import InputError

# Error numbers of a disk that takes no more data, whatever the program does.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_FROM_RUST = re.compile(r"(.*) \(os error (\d+)\)")  # the messages of libraries written in Rust


@contextmanager
def written_to(folder: str | Path) -> Iterator[None]:
    """Within, a full disk, a quota or a read-only place ends in an InputError that names the folder."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise InputError(f"{folder}: cannot be written to: {reason}; make room, or give another --out") from error


def _reason(error: Exception) -> str | None:
    """Why a file could not be written, None for any other error."""
    found = _FROM_RUST.search(str(error))
    if isinstance(error, OSError):
        number, said = error.errno, error.strerror
    elif found:
        number, said = int(found[2]), found[1].rpartition(": ")[2]
    else:
        return None
    return said if number in NO_ROOM else None
