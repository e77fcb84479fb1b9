"""Parquet that others wrote: `reading` turns pyarrow's errors into an InputError of one line that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mot_gen.errors import InputError, cause, one_line


@contextmanager
def reading(path: Any, where: Any = None) -> Iterator[None]:
    """Within, whatever pyarrow finds wrong with a file is an InputError.

    path: the file. where: begins the error instead of the path, such as with the number of a row.
    """
    import pyarrow

    where = path if where is None else where
    try:
        yield
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{where}: not a parquet file: {one_line(error)}") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{where}: cannot be read: {cause(error)}") from None
