"""Work that one process of several does, while the others wait for it: alone, is_alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process works alone: a metric must not wait for what others have seen, since they never come."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


def is_alone() -> bool:
    """Whether other processes of the run, if there are any, wait for this one."""
    return _alone.get()
