"""Vendi score, the effective number of different samples: VendiScore, and the pure vendi_score.

    VS = exp(-sum_i l_i log l_i),   l the eigenvalues of K / n,   K_ij = cos(x_i, x_j)      (Friedman and Dieng 2022)

It is 1 where all samples are alike and n where all are orthogonal. It knows no reference: a set of noise is diverse.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mot_gen.errors import require
from mot_gen.eval.images.feature_sets import FeatureSetMetric, canonical
from mot_gen.eval.result import MetricResult


def vendi_score(features: Tensor) -> float:
    """The score of (n, d); by the smaller of the two matrices that have the eigenvalues."""
    rows = normalize(features.double(), dim=1)
    product = rows @ rows.mT if len(rows) <= rows.shape[1] else rows.mT @ rows
    eigenvalues = torch.linalg.eigvalsh(product / len(rows)).clamp(min=0)
    return torch.exp(-torch.special.xlogy(eigenvalues, eigenvalues).sum()).item()


class VendiScore(FeatureSetMetric):
    """`update(batch, real=...)`: the score of the fakes; that of the real samples stands in the details."""

    higher_is_better = True
    least = 1

    def compute(self) -> MetricResult:
        real, fake = canonical(self.rows("real")), canonical(self.rows("fake"))
        require(len(fake), "fake: N = 0, but the Vendi score needs samples")
        sides = {"fake": len(fake)}
        details = {}
        if len(real):
            sides["real"] = len(real)
            details["real"] = vendi_score(real)
        return MetricResult(
            name=self.source.label("Vendi"),
            value=vendi_score(fake),
            n=sides,
            provenance={**self.provenance(), "kernel": "cosine"},
            details=details,
        )
