"""FID-infinity: FrechetInfinity, the Frechet distance at N -> infinity, by regression (Chong and Forsyth 2020).

The bias of the distance is linear in 1 / N to first order, so a line through the distances of growing subsets of the
fakes, against all of the real samples, meets 1 / N = 0 at the distance without the fakes' bias.

Which subset sizes are taken changes the value. The authors' program takes sizes evenly spaced from 5,000 to N, so most
lie near 1 / N; ours go from N / 10 to N evenly in 1 / N, where the line is fitted, and so work below 5,000 too.
Signatures name the choice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest, require
from mot_gen.eval.images.feature_sets import FeatureSetMetric, subset
from mot_gen.eval.images.frechet import frechet_compute
from mot_gen.eval.images.moments import moments_of
from mot_gen.eval.result import MetricResult

SPACINGS = ("inverse", "published")
PUBLISHED_LEAST = 5000


def subset_sizes(n: int, points: int, spacing: str = "inverse") -> list[int]:
    """`points` sizes up to n. "inverse": from n / 10, evenly in 1 / N. "published": from 5,000, evenly in N."""
    if spacing == "published":
        if n <= PUBLISHED_LEAST:
            raise InputError(f"{n} fakes: the published sizes begin at {PUBLISHED_LEAST}; use spacing='inverse'")
        return torch.linspace(PUBLISHED_LEAST, n, points, dtype=torch.float64).int().tolist()
    inverse = torch.linspace(10 / n, 1 / n, points, dtype=torch.float64)
    return [max(2, round(1 / value)) for value in inverse.tolist()]


def line_fit(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Least-squares intercept at x = 0, and its standard error."""
    design = torch.stack([torch.ones_like(x), x], 1)
    solution = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    residual = (y - design @ solution).square().sum() / (len(x) - 2)
    variance = residual * torch.linalg.inv(design.mT @ design)[0, 0]
    return solution[0].item(), variance.sqrt().item()


class FrechetInfinity(FeatureSetMetric):
    """Extrapolated Frechet distance: `points` (at least 15) subset sizes, one draw each, spaced as `subset_sizes` says.

    It needs N >= 10 (d + 1) fakes for subsets of full rank, and warns below. The real side's own bias stays in the
    value: give it many samples.
    """

    higher_is_better = False

    def __init__(self, feature_extractor=None, *, points: int = 15, spacing: str = "inverse", **kwargs):
        super().__init__(feature_extractor, **kwargs)
        require(points >= 15, f"points must be at least 15 for a stable line, got {points}")
        if spacing not in SPACINGS:
            raise InputError(f"spacing {spacing!r} is not known" + nearest(spacing, SPACINGS))
        self.points, self.spacing = points, spacing
        self.least = 2 * points

    def compute(self) -> MetricResult:
        real, fake = self.sides()
        sizes, reference = subset_sizes(len(fake), self.points, self.spacing), moments_of(real)
        generator = torch.Generator().manual_seed(self.seed)
        distances = [frechet_compute(reference, moments_of(subset(fake, size, generator))) for size in sizes]
        inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
        value, error = line_fit(inverse, torch.tensor(distances, dtype=torch.float64))
        return MetricResult(
            name=self.source.label("FD") + "-infinity",
            value=value,
            n={"real": len(real), "fake": len(fake)},
            provenance={**self.provenance(), "d": real.shape[1], **self._subsets(sizes)},
            warnings=self._warnings(sizes[0], real.shape[1], len(real)),
            details={"standard_error": error, "distance_at_n": distances[-1]},
        )

    def _subsets(self, sizes: list[int]) -> dict:
        drawn = f"{sizes[0]}-{sizes[-1]}"
        return {"points": self.points, "sizes": drawn, "spacing": self.spacing, "seed": self.seed}

    def _warnings(self, smallest: int, dimension: int, real: int) -> list[str]:
        found = []
        if smallest <= dimension:
            found.append(
                f"subsets from N = {smallest} are not above d = {dimension}: the bias is not yet linear in 1 / N"
            )
        if real <= dimension:
            found.append(f"{real} real samples are not above d = {dimension}: their bias stays in the value")
        return found
