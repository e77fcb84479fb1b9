"""Task: data whose captions name one of a few classes, so that pictures and captions can be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mot_gen.data.records import Pair


@dataclass(frozen=True)
class Task:
    """How captions ask for classes, and say them.

    classes: their names. captions_of(k): captions that ask for class k. class_of(caption): the class that a caption
    names, or None. what: what the pictures are, for people.
    """

    classes: Sequence[str]
    captions_of: Callable[[int], Sequence[str]]
    class_of: Callable[[str], int | None]
    what: str

    def label(self, pair: Pair) -> int:
        """The class of a pair of this data."""
        found = self.class_of(pair.captions[0])
        assert found is not None, f"{pair.id}: its caption names no class"
        return found
