"""Precision, recall, density, coverage: PrecisionRecall, and the pure pair neighbour_radii / manifold_scores.

Precision: share of fakes inside the k-nearest-neighbour ball of some real sample; recall the reverse (Kynkaanniemi et
al. 2019). Density: how many such balls a fake lies in, over k; coverage: share of real balls that hold a fake (Naeem et
al. 2020), which one outlier cannot raise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.images.feature_sets import FeatureSetMetric, square_distances
from mot_gen.eval.result import MetricResult


def neighbour_radii(rows: Tensor, k: int) -> Tensor:
    """(n,) squared distance of every row to its k-th nearest other row."""
    radii = rows.new_empty(len(rows))
    for block, distances in square_distances(rows, rows):
        own = torch.arange(block.start, block.stop, device=rows.device)
        distances[own - block.start, own] = torch.inf  # a sample is not its own neighbour
        radii[block] = distances.kthvalue(k, dim=1).values
    return radii


def manifold_scores(centres: Tensor, radii: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls each point lies in (n,), and whether each ball holds a point (m,)."""
    inside = torch.zeros(len(points), dtype=torch.long, device=points.device)
    held = torch.zeros(len(centres), dtype=torch.bool, device=points.device)
    for block, distances in square_distances(points, centres):
        within = distances <= radii
        inside[block] = within.sum(1)
        held |= within.any(0)
    return inside, held


class PrecisionRecall(FeatureSetMetric):
    """`compute()` gives four results: precision, recall (nearest_k = 3), density, coverage (density_k = 5)."""

    higher_is_better = True

    def __init__(self, feature_extractor=None, *, nearest_k=3, density_k=5, **kwargs):
        super().__init__(feature_extractor, **kwargs)
        if min(nearest_k, density_k) < 1:
            raise InputError(f"nearest_k and density_k must be at least 1, got {nearest_k} and {density_k}")
        self.nearest_k, self.density_k = nearest_k, density_k

    def compute(self) -> dict[str, MetricResult]:
        real, fake = self.sides(least=max(self.nearest_k, self.density_k) + 1)
        in_real, _ = manifold_scores(real, neighbour_radii(real, self.nearest_k), fake)
        in_fake, _ = manifold_scores(fake, neighbour_radii(fake, self.nearest_k), real)
        balls, held = manifold_scores(real, neighbour_radii(real, self.density_k), fake)
        values = {
            "precision": ((in_real > 0).double().mean(), self.nearest_k),
            "recall": ((in_fake > 0).double().mean(), self.nearest_k),
            "density": (balls.double().mean() / self.density_k, self.density_k),
            "coverage": (held.double().mean(), self.density_k),
        }
        return {name: self._result(name, value.item(), k, len(real), len(fake)) for name, (value, k) in values.items()}

    def _result(self, name: str, value: float, k: int, real: int, fake: int) -> MetricResult:
        uneven = real != fake and name in ("precision", "recall")
        return MetricResult(
            name=self.source.label(name),
            value=value,
            n={"real": real, "fake": fake},
            provenance={**self.provenance(), "k": k},
            warnings=[f"{real} real against {fake} fake: radii shrink with N; compare sets of one size"]
            if uneven
            else [],
        )
