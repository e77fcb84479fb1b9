"""Stopping on request: stop_signals tells whatever trains that SIGINT or SIGTERM asked for its end."""

from __future__ import annotations

import os
import signal
import time
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
    stop, first = Stop(), 0.0
    # torchrun hands an interrupt on, which may have come from the terminal already.
    echo = 2.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    def ask(number, frame):
        nonlocal first
        if stop.requested and number == signal.SIGINT and time.monotonic() - first >= echo:
            raise KeyboardInterrupt
        stop.requested, first = True, first or time.monotonic()

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
