"""Samples made of others: ConcatSamples, SubsetSamples, WeightedSamples; source_sizes.

`ConcatSamples` puts several sources one after the other. `SubsetSamples` is a part of one. `WeightedSamples` says how
often each source is shown.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, chain

from mot_gen.data.notices import Notice, Notices
from mot_gen.data.samples import Sample, Samples
from mot_gen.errors import InputError


class ConcatSamples(Samples):
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Samples]):
        self.sources = sources
        self._starts = [0, *accumulate(map(len, sources))]
        self.keys = array("Q", chain.from_iterable(source.keys for source in sources))
        self.fingerprint = hashlib.sha256(" ".join(s.fingerprint for s in sources).encode()).hexdigest()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def source_ends(self) -> list[int]:
        return self._starts[1:]

    @property
    def source_names(self) -> list[str]:
        return [source.source_names[0] if source.source_names else "" for source in self.sources]

    @property
    def notices(self) -> Notices:
        return Notices().add(source.notices for source in self.sources)

    @property
    def broken(self) -> Notice:
        found = Notice()
        for source in self.sources:
            found.add(source.broken)
        return found

    @property
    def kinds(self) -> Counter[str]:
        return sum((source.kinds for source in self.sources), Counter())

    def sample(self, index: int) -> Sample:
        source, place = self._at(index)
        return source[place]

    def outline(self, index: int) -> Sample:
        source, place = self._at(index)
        return source.outline(place)

    def _at(self, index: int) -> tuple[Samples, int]:
        which = bisect_right(self._starts, index) - 1
        return self.sources[which], index - self._starts[which]


class SubsetSamples(Samples):
    """Some of the samples of a source, by ascending index."""

    def __init__(self, samples: Samples, indices: Iterable[int]):
        self.samples = samples
        self.indices = array("Q", indices)
        chosen = samples.fingerprint.encode() + self.indices.tobytes()
        self.fingerprint = hashlib.sha256(chosen).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def keys(self) -> array[int]:  # type: ignore[override]  # a class may not declare an attribute as lazily made
        return array("Q", (self.samples.keys[index] for index in self.indices))

    @cached_property
    def source_ends(self) -> list[int]:  # type: ignore[override]  # likewise
        return [bisect_left(self.indices, end) for end in self.samples.source_ends]

    @property
    def source_names(self) -> list[str]:
        return self.samples.source_names

    @property
    def notices(self) -> Notices:
        return self.samples.notices

    @property
    def broken(self) -> Notice:
        return self.samples.broken

    @property
    def kinds(self) -> Counter[str]:
        return self.samples.kinds

    def sample(self, index: int) -> Sample:
        return self.samples[self.indices[index]]

    def outline(self, index: int) -> Sample:
        return self.samples.outline(self.indices[index])


class WeightedSamples(SubsetSamples):
    """Samples of several sources that are to be shown in proportion. weights: one a source."""

    def __init__(self, samples: Samples, weights: Sequence[float]):
        """InputError where a weight is less than a sample an epoch."""
        super().__init__(samples, range(len(samples)))
        self.weights = tuple(weights)
        self.fingerprint = samples.fingerprint
        for name, size, weight in zip(self.source_names, source_sizes(self), weights):
            if size and not round(size * weight):
                raise InputError(
                    f"data.records: {name}: weight {weight:g} of {size} samples is not one sample an epoch; "
                    f"give at least {1 / size:.2g}"
                )


def source_sizes(samples: Samples) -> list[int]:
    """How many samples each source has."""
    ends = samples.source_ends
    return [end - start for start, end in zip([0, *ends], ends)]
