"""Stopping on request: stop_signals tells whatever trains that SIGINT or SIGTERM asked for its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stop:
    """Whether a signal asked for the end of the run."""

    requested: bool = field(default=False)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """The first SIGINT or SIGTERM asks for a checkpoint at the next step's end; a second SIGINT interrupts at once."""
    stop = Stop()

    def ask(number, frame):
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals belong to the main thread; elsewhere there is nothing to listen to
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
