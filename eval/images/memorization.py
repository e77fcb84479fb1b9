"""Whether fakes are copies of the samples that a model was trained on: Memorization, by nearest neighbours.

Authenticity: the share of fakes that lie farther from their nearest training sample than that sample lies from its own
nearest neighbour (Alaa et al. 2022). 0 for copies; near 0.5 where fakes are new samples of the same distribution.

Data copying: whether fakes lie nearer to the training samples than held-out samples do, by the z-score of the
Mann-Whitney test of both sets of distances (Meehan et al. 2020, with one cell). Below -3 a model copies; above 3 it
underfits. It needs samples that were held out of training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.images.feature_sets import FeatureSetMetric, canonical, square_distances
from mot_gen.eval.images.precision_recall import ROUNDING, neighbour_radii
from mot_gen.eval.result import MetricResult


def nearest(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) squared distances to the nearest key, and its number."""
    distances, numbers = queries.new_empty(len(queries)), torch.empty(len(queries), dtype=torch.long)
    for block, found in square_distances(queries, keys):
        least = found.min(dim=1)
        distances[block], numbers[block] = least.values, least.indices.cpu()
    return distances, numbers.to(queries.device)


def authenticity(train: Tensor, fake: Tensor) -> float:
    """Share of fakes (n, d) that are farther from their nearest of (m, d) than that one is from its own."""
    (own,) = neighbour_radii(train, [1])
    distances, numbers = nearest(fake, train)
    slack = ROUNDING * max(train.square().sum(1).max().item(), fake.square().sum(1).max().item())
    return (distances > own[numbers] + slack).double().mean().item()


def data_copying(train: Tensor, held_out: Tensor, fake: Tensor) -> float:
    """z-score of the Mann-Whitney U of the fakes' distances over the held-out samples', to their nearest of train."""
    made, real = nearest(fake, train)[0], nearest(held_out, train)[0]
    ranks = average_ranks(torch.cat([made, real]))
    n, m = len(made), len(real)
    u = ranks[:n].sum().item() - n * (n + 1) / 2
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def average_ranks(values: Tensor) -> Tensor:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[places]


class Memorization(FeatureSetMetric):
    """`update(batch, real=..., held_out=False)`: real samples are those of training, unless they were `held_out`.

    `compute()` gives "authenticity", and "data_copying" where held-out samples were given.
    """

    higher_is_better = True

    def __init__(self, feature_extractor=None, **kwargs):
        super().__init__(feature_extractor, **kwargs)
        self.add_rows("held_out")

    def update(self, batch: Tensor, real: bool, held_out: bool = False) -> None:
        if not held_out:
            super().update(batch, real)
        elif not real:
            raise InputError("fakes cannot be held out of training; pass held_out=True with real samples")
        else:
            self.append("held_out", self.source(batch))

    def compute(self) -> dict[str, MetricResult]:
        train, fake = self.sides()
        held_out = canonical(self.rows("held_out"))
        n = {"real": len(train), "fake": len(fake)}
        found = {"authenticity": self._result("authenticity", authenticity(train, fake), n)}
        if len(held_out):
            n = {**n, "held_out": len(held_out)}
            found["data_copying"] = self._result("data_copying", data_copying(train, held_out, fake), n)
        return found

    def _result(self, name: str, value: float, n: dict[str, int]) -> MetricResult:
        return MetricResult(self.source.label(name), value, n, provenance=self.provenance())
