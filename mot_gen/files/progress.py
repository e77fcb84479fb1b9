"""Progress of long work, on standard error: Progress, counted, clock.

On a terminal it is a bar with rate, time left and a loss per modality; on a pipe it is plain lines. `rich`, which draws
the bar, is imported when there is a bar to draw.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich import progress as rich_progress

SECONDS = 10.0  # between two lines of `counted`, and of what a step waits for


class Progress:
    """Context manager that shows `total` steps; None where nobody knows how many there will be.

    names: the modalities whose losses are shown, in this order.
    done: steps made before this run, when it resumes; they count as progress but not for the rate.
    interval: least seconds between two plain lines; the first and the last step always get one.
    shown: False says nothing, as on all processes but the first.
    title: what is shown before it all.

    The first step often takes a thousand times as long as the others, since data are prepared and programs compiled in
    it. So no time is foretold after it, and it does not count for the rate afterwards.
    """

    def __init__(
        self,
        total: int | None,
        names: Sequence[str] = (),
        done: int = 0,
        unit: str = "step",
        stream: TextIO | None = None,
        interval: float = 5.0,
        shown: bool = True,
        title: str = "",
    ):
        self.total, self.names, self.unit, self.interval = total, list(names), unit, interval
        self.title = f"{title}: " if title else ""
        self._of_total = "" if total is None else f"/{total}"
        self.begin_at(done)
        self.losses: dict[str, float] = {}
        self.shown = shown
        self._stream = stream or sys.stderr
        self._bar = _bar(self._stream) if shown and self._stream.isatty() else None
        self._started, self._shown = time.monotonic(), float("-inf")
        self._heard = self._started  # when something was last said of a step, or could have been

    def begin_at(self, done: int) -> None:
        """Say that `done` steps were made before this run; `update` has not been called yet."""
        self.done = self.first = self._counted_from = done
        self._first_at: float | None = None

    def __enter__(self) -> Progress:
        self._started = self._heard = time.monotonic()
        if self.total is None:  # perhaps it is short, and then there is nothing to say
            self._shown = self._started
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, completed=self.done)
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, **losses: float) -> None:
        """`done` steps are made in all; `losses` by modality, those not given stay as they were."""
        self._leave_out_first(done - self.first)
        self._heard = time.monotonic()
        self.done = done
        self.losses |= losses
        if self._bar:
            self._bar.update(self._task, completed=done, description=f"{self.title}{self.text()}")
        elif done == self.total or time.monotonic() - self._shown >= self.interval:
            self._shown = time.monotonic()
            self.note(f"{self.title}{self.unit} {done}{self._of_total}  {self.text()}")

    def wait(self, line: str) -> None:
        """What the next step waits for. It is said where that takes longer than SECONDS, and again after as many."""
        if time.monotonic() - self._heard < SECONDS:
            return
        self._heard = time.monotonic()
        if self._bar:
            self._bar.update(self._task, description=f"{self.title}{line}")
        else:
            self.note(f"{self.title}{line}")

    def _leave_out_first(self, made: int) -> None:
        """Count the rate from the end of the first step on, once a second one is made."""
        if made == 1:
            self._first_at = time.monotonic()
        elif self._first_at is not None:
            self._counted_from, self._started = self.first + 1, self._first_at
            self._first_at = None

    def note(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        elif self.shown:
            print(line, file=self._stream, flush=True)

    @property
    def rate(self) -> float:
        """Steps a second since this run began, without its first step as soon as there are others."""
        return (self.done - self._counted_from) / max(time.monotonic() - self._started, 1e-9)

    @property
    def remaining(self) -> float:
        """Seconds that the rest will take at this rate; infinite where that is not known yet."""
        if self.total is None or not self.rate:
            return math.inf
        left = self.total - self.done
        only_first = self._first_at is not None and left > 0
        return math.inf if only_first else left / self.rate

    def text(self) -> str:
        """Rate, time left and losses, as `12.3 step/s  1:05 left  text 2.310  image 0.541`."""
        slow = 0 < self.rate < 1
        parts = [f"{1 / self.rate:.1f} s/{self.unit}" if slow else f"{self.rate:.1f} {self.unit}/s"]
        if self.total is not None:
            parts.append(f"{clock(self.remaining)} left")
        parts += [f"{name} {self.losses[name]:.3f}" for name in self.names if name in self.losses]
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss, rounded up so that 0:00 means done; -:-- when not known."""
    if seconds == math.inf:
        return "-:--"
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _bar(stream: TextIO) -> rich_progress.Progress:
    """A bar with the number of steps and a text beside it."""
    from rich import progress
    from rich.console import Console

    columns = progress.BarColumn(bar_width=24), progress.MofNCompleteColumn()
    return progress.Progress(*columns, progress.TextColumn("{task.description}"), console=Console(file=stream))


@contextmanager
def counted(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Give a function that is to be called with the number of items just done; `what` is shown before the count."""
    with Progress(total, unit="item", interval=SECONDS, title=what) as bar:
        yield lambda done: bar.update(bar.done + done)
