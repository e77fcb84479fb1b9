"""Stopping on request, by SIGINT or SIGTERM: stop_signals, for work that ends at its next good moment, and
stopping_at_once, for work that has nothing to save."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from mot_gen.errors import Interrupted


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

    with _handled_by(ask):
        yield stop


@contextmanager
def stopping_at_once(message: str) -> Iterator[None]:
    """Within, the first SIGINT or SIGTERM raises Interrupted with the message, wherever the program is."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(message)

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, SIGINT and SIGTERM go to this handler. They arrive in the main thread alone, so others change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
