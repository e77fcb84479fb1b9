"""Progress of long work: a bar with rate, time left and a loss per modality on a terminal, plain lines on a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich import progress
from rich.console import Console


class Progress:
    """Context manager that shows `total` steps, None where nobody knows how many there will be. names: the modalities
    whose losses are shown, in this order.

    done: steps made before this run, when it resumes; they count as progress but not for the rate. interval: the
    least seconds between two plain lines, the first and the last step's aside. shown: False says nothing, as on all
    processes but the first.
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
    ):
        self.total, self.names, self.unit, self.interval = total, list(names), unit, interval
        self.done = self.first = done
        self.losses: dict[str, float] = {}
        self.shown = shown
        self._stream = stream or sys.stderr
        console = Console(file=self._stream)
        self._bar = None
        if shown and console.is_terminal:
            columns = progress.BarColumn(bar_width=24), progress.MofNCompleteColumn()
            self._bar = progress.Progress(*columns, progress.TextColumn("{task.description}"), console=console)
        self._started, self._shown = time.monotonic(), float("-inf")

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
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
        self.done = done
        self.losses |= losses
        if self._bar:
            self._bar.update(self._task, completed=done, description=self.text())
        elif done == self.total or time.monotonic() - self._shown >= self.interval:
            self._shown = time.monotonic()
            of = "" if self.total is None else f"/{self.total}"
            self.note(f"{self.unit} {done}{of}  {self.text()}")

    def note(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        elif self.shown:
            print(line, file=self._stream, flush=True)

    @property
    def rate(self) -> float:
        """Steps a second since this run began."""
        return (self.done - self.first) / max(time.monotonic() - self._started, 1e-9)

    @property
    def remaining(self) -> float:
        """Seconds that the rest will take at this rate; infinite before the first step."""
        return (self.total - self.done) / self.rate if self.rate and self.total is not None else float("inf")

    def text(self) -> str:
        """Rate, time left and losses, as `12.3 step/s  1:05 left  text 2.310  image 0.541`."""
        slow = 0 < self.rate < 1
        rate = f"{1 / self.rate:.1f} s/{self.unit}" if slow else f"{self.rate:.1f} {self.unit}/s"
        shown = [f"{name} {self.losses[name]:.3f}" for name in self.names if name in self.losses]
        left = [] if self.total is None else [f"{clock(self.remaining)} left"]
        return "  ".join([rate, *left, *shown])


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss, rounded up so that 0:00 means done; -:-- when not known."""
    if seconds == float("inf"):
        return "-:--"
    whole = -int(-seconds // 1)
    hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
