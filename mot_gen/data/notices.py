"""What is worth saying about data without being an error: Notice, Notices, kept.

Whatever a reader drops, shrinks, recolours or changes is counted here under a phrase, with the names of the first ones.
`mot-gen data validate` prints all of it, and training prints it at its start and at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mot_gen.errors import InputError

NAMED = 1000  # names that are kept of a kind, where there are more


@dataclass
class Notice:
    """How many of a kind there are, and the names of the first NAMED."""

    count: int = 0
    samples: list[str] = field(default_factory=list)

    def note(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.samples) < NAMED:
            self.samples.append(name)

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Within, an InputError ends the block, and is counted under what it says."""
        try:
            yield
        except InputError as error:
            self.note(str(error))

    def add(self, other: Notice) -> None:
        """Count what was counted elsewhere."""
        self.count += other.count
        self.samples += other.samples[: NAMED - len(self.samples)]

    def first(self, shown: int) -> str:
        """The first names in one line, and how many more there are."""
        names = "; ".join(self.samples[:shown])
        return f"{names}; and {self.count - shown:,} more" if self.count > shown else names

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"count": self.count, "samples": self.samples}


class Notices(dict[str, Notice]):
    """Notices by the phrase that says what they are, such as "hidden files, which are left out"."""

    def note(self, what: str, name: str) -> None:
        """Count one more of a kind."""
        self.setdefault(what, Notice()).note(name)

    def note_all(self, what: str, names: Iterable[str]) -> None:
        """Count each of some names under a kind, which is there only if there is a name."""
        for name in names:
            self.note(what, name)

    def add(self, others: Iterable[Notices]) -> Notices:
        """Count what was counted elsewhere; returns itself."""
        for other in others:
            for what, notice in other.items():
                self.setdefault(what, Notice()).add(notice)
        return self

    def lines(self, shown: int = 3) -> list[str]:
        """A line of each kind: how many, what they are, and the first names."""
        return [f"{notice.count:,} {what}: {notice.first(shown)}" for what, notice in self.items()]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {what: notice.as_dict() for what, notice in self.items()}


def kept(notices: Notices | None) -> Notices:
    """What takes notices: the given ones, or some that nobody reads."""
    return Notices() if notices is None else notices
