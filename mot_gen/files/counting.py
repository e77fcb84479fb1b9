"""progress: a bar on a terminal, plain lines on a pipe; on standard error, so that results can be piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 10  # between plain lines


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items just done."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.advance(task, done)
    else:
        yield _plain_lines(total, what)


def _plain_lines(total: int, what: str) -> Callable[[int], None]:
    start = last = time.monotonic()
    finished = 0

    def advance(done: int):
        nonlocal finished, last
        finished, now = finished + done, time.monotonic()
        if now - last >= SECONDS or finished == total:
            rate = finished / max(now - start, 1e-9)
            print(f"{what}: {finished}/{total}, {rate:.1f} a second", file=sys.stderr)
            last = now

    return advance
