"""Old data beside new data: with_rehearsal.

What a model was trained on before is forgotten within some hundred steps on other data (McCloskey and Cohen, 1989). A
share of old samples among the new ones stops that; the old ones need not be many, since each is shown again and again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mot_gen.data import records
from mot_gen.data.joined import WeightedSamples
from mot_gen.data.mixture import mixture_of
from mot_gen.data.notices import Notice, Notices
from mot_gen.data.samples import Sample, Samples, Splits, kinds_of
from mot_gen.errors import InputError


class RehearsedSamples(Samples):
    """The samples of one set, then those of another; the second counts as one source."""

    def __init__(self, new: Sequence[Sample], old: Sequence[Sample], name: str):
        """name: what the second is called."""
        self.new, self.old, self.name = new, old, name
        both = f"{records.fingerprint(new)} {records.fingerprint(old)}"
        self.fingerprint = hashlib.sha256(both.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.new) + len(self.old)

    def sample(self, index: int) -> Sample:
        return self.new[index] if index < len(self.new) else self.old[index - len(self.new)]

    def outline(self, index: int) -> Sample:
        if index < len(self.new):
            return records.outline(self.new, index)
        return records.outline(self.old, index - len(self.new))

    @property
    def source_ends(self) -> list[int]:
        return [*_ends(self.new), len(self)]

    @property
    def source_names(self) -> list[str]:
        return [*(records.source_names(self.new) or ["new data"]), self.name]

    @property
    def notices(self) -> Notices:
        return records.notices(self.new)

    @property
    def broken(self) -> Notice:
        return records.broken(self.new)

    @property
    def kinds(self) -> Counter[str]:
        new = records.kinds(self.new)
        if not new:
            return new
        return new + (records.kinds(self.old) or _all_as_the_first(self.old))


def _ends(samples: Sequence[Sample]) -> list[int]:
    return samples.source_ends if isinstance(samples, Samples) else [len(samples)]


def _all_as_the_first(samples: Sequence[Sample]) -> Counter[str]:
    """Samples by modality where all have the modalities of the first, as those that a source draws do."""
    return Counter(dict.fromkeys(kinds_of(records.outline(samples, 0)), len(samples)))


def with_rehearsal(splits: Splits, old: Sequence[Sample], share: float, name: str) -> Splits:
    """Splits whose training set shows this share of old samples. An epoch is one of the new samples.

    name: what the old ones are called in losses by source. What is held out stays as it is.
    """
    if not len(old):
        raise InputError("data.rehearsal: has no sample to train on; give another source, or leave it out")
    new = splits.train
    weights = new.weights if isinstance(new, Samples) and new.weights else [1.0] * len(_ends(new))
    shown = len(mixture_of(new, 0)) * share / (1 - share)
    both = WeightedSamples(RehearsedSamples(new, old, name), [*weights, shown / len(old)])
    return replace(splits, train=both)
