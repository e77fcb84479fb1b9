"""Samples that cannot be used: LeftOut counts them and names them, up to a cap."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mot_gen.data import records
from mot_gen.data.samples import UNUSABLE, Sample
from mot_gen.errors import InputError, require

log = logging.getLogger(__name__)
SHOWN = 3  # broken records that a message names


class LeftOut:
    """The samples of a set that cannot be used.

    broken: the records that could not be read to begin with. reasons: index -> id and reason of each sample that was
    left out since. Together they may be as many as `cap`, the recipe's `training.max_corrupt`; more are an InputError.
    """

    def __init__(self, samples: Sequence[Sample], cap: int):
        self.broken = records.broken(samples)
        self.reasons: dict[int, str] = {}
        self._count, self._cap = len(samples), cap
        self._check_cap(f"{self.broken.first(SHOWN)} (mot-gen data validate lists them)")

    @contextmanager
    def catching(self, index: int, name: str = "") -> Iterator[None]:
        """Within, what makes a sample unusable ends the block and is noted. name: stands before the reason."""
        try:
            yield
        except UNUSABLE as error:
            self.note(index, f"{name}{error}")

    def note(self, index: int, reason: str) -> None:
        """Leave a sample out. InputError where too many are, or all of them."""
        if index not in self.reasons:
            log.warning("skipped %s", reason)
        self.reasons[index] = reason
        nothing_left = len(self.reasons) == self._count
        require(not nothing_left, f"data: none of the {self._count} samples can be used; {reason}")
        self._check_cap(f"the last is {reason}")

    def _check_cap(self, which: str) -> None:
        count = self.broken.count + len(self.reasons)
        if count > self._cap:
            raise InputError(f"data: unusable samples: {count}, more than training.max_corrupt={self._cap}; {which}")
