"""How often each source is shown: Mixture, SampleDraw, mixture_of.

A weight is a number of passes: with weight w, an epoch shows w times as many samples of a source as it has. Half a pass
is half of the samples, and the other half in the next epoch: however many epochs have gone by, no sample of a source
was shown more than once more often than another. A source of n samples is thus a share w n / (the sum of all w n) of
what is seen; with the weight 1 everywhere an epoch is every sample once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch

from mot_gen.data.joined import source_sizes
from mot_gen.data.samples import Sample, Samples, sample_key


class SampleDraw(NamedTuple):
    """A sample that is shown.

    turn: the number of the pass over its source, counted from the beginning of training. No showing is like another,
    and what is drawn for it is seeded by both numbers.
    """

    index: int  # type: ignore[assignment]  # the method of tuples of that name is not used
    turn: int


class Mixture:
    """What an epoch shows. sizes: samples of each source, whose indices follow one another. shown: how many of them an
    epoch shows."""

    def __init__(self, sizes: Sequence[int], shown: Sequence[int] | None = None, seed: int = 0):
        self.sizes, self.shown, self.seed = list(sizes), list(shown or sizes), seed
        self._starts = [0, *accumulate(self.sizes)]
        self._ends = list(accumulate(self.shown))
        self._orders: dict[tuple[int, int], torch.Tensor] = {}

    def __len__(self) -> int:
        """Samples an epoch."""
        return self._ends[-1]

    def showings(self, epoch: int, places: Iterable[int]) -> list[SampleDraw]:
        """What stands at these places, each below the length, of an epoch that is not shuffled yet."""
        return [self._showing(epoch, place) for place in places]

    def _showing(self, epoch: int, place: int) -> SampleDraw:
        """Source s goes round and round through its samples, `shown[s]` steps an epoch."""
        source = bisect_right(self._ends, place)
        size, shown = self.sizes[source], self.shown[source]
        turn, step = divmod(epoch * shown + place - (self._ends[source] - shown), size)
        if shown % size:  # a pass may be cut by the end of an epoch, so its own order says what comes before the cut
            step = int(self._order(source, turn)[step])
        return SampleDraw(self._starts[source] + step, turn)

    def _order(self, source: int, turn: int) -> torch.Tensor:
        """A permutation of a source's samples for one pass; two are kept, since an epoch cuts no more."""
        key = source, turn
        if key not in self._orders:
            generator = torch.Generator().manual_seed(sample_key(f"pass/{self.seed}/{source}/{turn}") >> 1)
            order = torch.randperm(self.sizes[source], generator=generator, dtype=torch.int32)
            near = {k: v for k, v in self._orders.items() if k[0] != source or k[1] == turn - 1}
            self._orders = near | {key: order}  # another dict, as threads that work ahead read this one
        return self._orders[key]


def mixture_of(samples: Sequence[Sample], seed: int) -> Mixture:
    """The mixture that samples ask for by their weights; by default every sample once an epoch."""
    if not isinstance(samples, Samples) or samples.weights is None:
        return Mixture([len(samples)], seed=seed)
    sizes = source_sizes(samples)
    return Mixture(sizes, [round(size * weight) for size, weight in zip(sizes, samples.weights)], seed)
