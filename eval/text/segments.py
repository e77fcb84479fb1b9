"""SegmentTable: metrics whose statistics add up over segments (sentences, image pairs, documents), with an interval.

Every segment gives one row of k statistics; the metric is a function of their sum. So batches, processes and bootstrap
resamples are all the same thing, and a corpus score is never a mean of batch scores. SegmentMetric has one result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.result import MetricResult, checked_confidence

RESAMPLES = 1000


def bootstrap(
    rows: Tensor, score: Callable[[Tensor], float], confidence: float, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of score(sum of rows) over resampled segments (Koehn 2004), 1000 draws; rows (N, k).

    Draws without a finite score (only empty references, only identical images) are left out; None where all are.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = rows.cpu()
    draws = (torch.randint(len(rows), (len(rows),), generator=generator) for _ in range(RESAMPLES))
    scores = torch.tensor([_score_or_nan(score, rows[draw].sum(0)) for draw in draws], dtype=torch.float64)
    scores = scores[scores.isfinite()]
    if not len(scores):
        return None
    tail = (1 - confidence) / 2
    low, high = torch.quantile(scores, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _score_or_nan(score: Callable[[Tensor], float], total: Tensor) -> float:
    try:
        return score(total)
    except InputError:
        return math.nan


class SegmentTable(Accumulator):
    """A table with a row of statistics for every segment, and results of functions of its sum.

    A subclass states `name`, `unit` (what a row is), `statistics(*batch) -> (n, k)`, `score((k,)) -> float`, and
    `compute`. confidence: e.g. 0.95 for a bootstrap interval over the segments.
    """

    name: str
    unit = "segments"

    def __init__(self, *, confidence: float | None = None, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.confidence, self.seed = checked_confidence(confidence), seed
        self.add_rows("table")

    def statistics(self, *args: Any, **kwargs: Any) -> Tensor:
        """(n, k) float64 of a batch."""
        raise NotImplementedError

    def score(self, total: Tensor) -> float:
        """The value of the summed rows (k,)."""
        raise NotImplementedError

    def update(self, *batch: Any) -> None:
        rows: Any = self.statistics(*batch)
        found = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        table = isinstance(rows, Tensor) and rows.ndim == 2
        require(table, f"{type(self).__name__}.statistics: should give a tensor, a row of each segment, got {found}")
        self.append("table", rows)

    def result(self, name: str, score: Callable[[Tensor], float]) -> MetricResult:
        """The result of one function of the summed rows; a metric with several scores calls it for each."""
        rows = self.rows("table")
        require(len(rows), f"{name}: no {self.unit} were given")
        value: Any = score(rows.sum(0))
        require(hasattr(value, "__float__"), f"{name}: score should give a number, got {value!r:.60}")
        interval, drawn = None, {}
        if self.confidence is not None and len(rows) > 1:
            interval = bootstrap(rows, score, self.confidence, self.seed)
            drawn = {"confidence": self.confidence, "seed": self.seed}
        return MetricResult(
            name=name,
            value=value,
            n={self.unit: len(rows), **self.counts(rows)},
            interval=interval,
            provenance={**self.provenance(), **drawn},
            warnings=self.cautions(rows),
            details=self.details(rows),
        )

    def segment_scores(self) -> list[float]:
        """The score of every segment by itself: for the worst cases."""
        return [self.score(row) for row in self.rows("table")]

    def provenance(self) -> dict:
        """Settings that change the value."""
        return {}

    def counts(self, rows: Tensor) -> dict[str, int]:
        """Further sizes of what was measured: words, tokens, bytes."""
        return {}

    def cautions(self, rows: Tensor) -> list[str]:
        """What a reader must know before quoting the value."""
        return []

    def details(self, rows: Tensor) -> dict[str, float]:
        """Further numbers of the same computation."""
        return {}


class SegmentMetric(SegmentTable):
    """A `SegmentTable` with one result, that of `score`."""

    def compute(self) -> MetricResult:
        return self.result(self.name, self.score)


def table(rows: Sequence[Sequence[float]], columns: int) -> Tensor:
    """(n, columns) float64, also for n = 0."""
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, columns)


def mean_score(total: Tensor) -> float:
    """Mean of a value per segment, from the sums of rows (value, 1)."""
    return (total[0] / total[1]).item()


def mean_rows(values: Tensor) -> Tensor:
    """Rows (value, 1) of values (n,)."""
    return torch.stack([values.double(), torch.ones_like(values, dtype=torch.float64)], 1)
