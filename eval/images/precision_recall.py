"""Precision, recall, density, coverage: PrecisionRecall, and the pure pair neighbour_radii / manifold_scores.

Precision: share of fakes inside the k-nearest-neighbour ball of some real sample; recall the reverse (Kynkaanniemi et
al. 2019). Density: how many such balls a fake lies in, over k; coverage: share of real balls that hold a fake (Naeem et
al. 2020), which one outlier cannot raise.

Ties: a sample at exactly a ball's radius (a copy of a real sample, say) is inside for precision and recall, as in the
authors' code, and outside for density and coverage, as in theirs (the package prdc). Signatures say which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.images.feature_sets import FeatureSetMetric, square_distances
from mot_gen.eval.result import MetricResult

ROUNDING = 1e-12  # of the largest squared length: two squared distances that differ by less are equal


class Manifold(NamedTuple):
    """Counts of (n,) fakes and (m,) real samples against the balls of the other set.

    inside: whether a fake lies in some real ball of nearest_k.
    reached: whether a real sample lies in some fake ball of nearest_k.
    balls: in how many real balls of density_k a fake lies.
    held: whether a real ball of density_k has a fake in it.
    """

    inside: Tensor
    reached: Tensor
    balls: Tensor
    held: Tensor


def neighbour_radii(rows: Tensor, ks: Sequence[int]) -> list[Tensor]:
    """k -> (n,) squared distances of every row to its k-th nearest other row."""
    nearest = rows.new_empty(len(rows), max(ks))
    for block, distances in square_distances(rows, rows):
        own = torch.arange(block.start, block.stop, device=rows.device)
        distances[own - block.start, own] = torch.inf  # a sample is not its own neighbour
        nearest[block] = distances.topk(max(ks), dim=1, largest=False).values
    return [nearest[:, k - 1] for k in ks]


def manifold_scores(real: Tensor, fake: Tensor, nearest_k: int, density_k: int) -> Manifold:
    """Which samples (m, d) and (n, d) lie in whose balls; one pass over the distances between the sets."""
    real_radii, dense_radii = neighbour_radii(real, [nearest_k, density_k])
    (fake_radii,) = neighbour_radii(fake, [nearest_k])
    slack = ROUNDING * max(real.square().sum(1).max().item(), fake.square().sum(1).max().item())
    real_radii, fake_radii, dense_radii = real_radii + slack, fake_radii + slack, dense_radii - slack
    inside = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    balls = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    reached, held = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    for block, distances in square_distances(fake, real):
        inside[block] = (distances <= real_radii).any(1)
        reached |= (distances <= fake_radii[block, None]).any(0)
        dense = distances < dense_radii
        balls[block] = dense.sum(1)
        held |= dense.any(0)
    return Manifold(inside, reached, balls, held)


class PrecisionRecall(FeatureSetMetric):
    """`compute()` gives four results: precision, recall (nearest_k = 3), density, coverage (density_k = 5)."""

    higher_is_better = True

    def __init__(self, feature_extractor=None, *, nearest_k: int = 3, density_k: int = 5, **kwargs):
        super().__init__(feature_extractor, **kwargs)
        if min(nearest_k, density_k) < 1:
            raise InputError(f"nearest_k and density_k must be at least 1, got {nearest_k} and {density_k}")
        self.nearest_k, self.density_k = nearest_k, density_k
        self.least = max(nearest_k, density_k) + 1

    def compute(self) -> dict[str, MetricResult]:
        real, fake = self.sides()
        found = manifold_scores(real, fake, self.nearest_k, self.density_k)
        values = {
            "precision": found.inside.double().mean(),
            "recall": found.reached.double().mean(),
            "density": found.balls.double().mean() / self.density_k,
            "coverage": found.held.double().mean(),
        }
        return {name: self._result(name, value.item(), len(real), len(fake)) for name, value in values.items()}

    def _result(self, name: str, value: float, real: int, fake: int) -> MetricResult:
        warnings = []
        if name in ("precision", "recall"):
            facts = {"k": self.nearest_k, "ties": "inside"}
            if real != fake:
                warnings = [f"{real} real against {fake} fake: radii shrink with N; compare sets of one size"]
        else:
            facts = {"k": self.density_k, "ties": "outside"}
        return MetricResult(
            name=self.source.label(name),
            value=value,
            n={"real": real, "fake": fake},
            provenance={**self.provenance(), **facts},
            warnings=warnings,
        )
