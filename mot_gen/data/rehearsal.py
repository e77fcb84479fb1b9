"""Old data beside new data: rehearsed.

What a model was trained on before is forgotten within some hundred steps on other data (McCloskey and Cohen, 1989). A
share of old samples among the new ones stops that; the old ones need not be many, since each is shown again and again.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from mot_gen.data import records
from mot_gen.data.mixture import Weighted, mixture_of
from mot_gen.data.samples import Sample, Splits
from mot_gen.errors import InputError


class Beside(Sequence[Sample]):
    """The samples of one set, then those of another; the second counts as one source."""

    def __init__(self, new: Sequence[Sample], old: Sequence[Sample], name: str):
        self.new, self.old = new, old
        self.source_names = [*(records.source_names(new) or ["new data"]), name]
        ends = list(getattr(new, "source_ends", [len(new)]))
        self.source_ends = [*ends, ends[-1] + len(old)]
        both = f"{records.fingerprint(new)} {records.fingerprint(old)}"
        self.fingerprint = hashlib.sha256(both.encode()).hexdigest()

    def __len__(self) -> int:
        return self.source_ends[-1]

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # no set of samples is sliced
        index = range(len(self))[index]
        return self.new[index] if index < len(self.new) else self.old[index - len(self.new)]

    def outline(self, index: int) -> Sample:
        """A sample without its media, as its own set gives it."""
        if index < len(self.new):
            return records.outline(self.new, index)
        return records.outline(self.old, index - len(self.new))

    def source_of(self, index: int) -> int:
        """The number of the source that a sample comes from."""
        return bisect_right(self.source_ends, index)


def rehearsed(splits: Splits, old: Sequence[Sample], share: float, name: str) -> Splits:
    """Splits whose training set shows this share of old samples. An epoch is one of the new samples.

    name: what the old ones are called in losses by source. What is held out stays as it is.
    """
    if not len(old):
        raise InputError("data.rehearsal: has no sample to train on; give another source, or leave it out")
    sizes = getattr(splits.train, "source_ends", [len(splits.train)])
    weights = list(getattr(splits.train, "weights", [1.0] * len(sizes)))
    shown = len(mixture_of(splits.train, 0)) * share / (1 - share)
    both = Weighted(Beside(splits.train, old, name), [*weights, shown / len(old)])
    return replace(splits, train=both)
