"""Kernel distance (squared MMD): KernelDistance, and the pure pair kernel_sums / kernel_compute.

KID (Binkowski et al. 2018): the unbiased estimate with the kernel (x.y / d + 1)^3, mean over random subsets.
CMMD (Jayasumana et al. 2024): the biased estimate with a Gaussian kernel, sigma = 10, on unit-length CLIP embeddings,
times 1000. Unlike the Frechet distance the unbiased one has no bias at any N, and the two sets may differ in size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.eval.images.feature_sets import FeatureSetMetric, square_distances, subset
from mot_gen.eval.result import MetricResult, checked_confidence

KERNELS = ("polynomial", "gaussian")
SIGMA, SCALE = 10.0, 1000.0


class KernelSums(NamedTuple):
    """Sums of k over a pair of sets (rows, columns), and over the diagonal, which is used only within one set."""

    total: float
    diagonal: float
    rows: int
    columns: int


def kernel_sums(one: Tensor, two: Tensor, kernel: str) -> KernelSums:
    """Sums of the kernel between (m, d) and (n, d), in blocks."""
    total = diagonal = 0.0
    for rows, distances in square_distances(one, two):
        values = _kernel(one[rows], two, distances, kernel)
        total += values.sum().item()
        diagonal += values.diagonal(rows.start).sum().item() if rows.start < len(two) else 0.0
    return KernelSums(total, diagonal, len(one), len(two))


def _kernel(one: Tensor, two: Tensor, distances: Tensor, kernel: str) -> Tensor:
    if kernel == "gaussian":
        return torch.exp(distances / (-2 * SIGMA**2))
    return (one @ two.mT / one.shape[1] + 1) ** 3


def kernel_compute(real: KernelSums, fake: KernelSums, cross: KernelSums, unbiased: bool) -> float:
    """Squared MMD; `unbiased` leaves out the diagonals (a U-statistic), and may then be negative."""
    within = sum(
        (side.total - side.diagonal) / (side.rows * (side.rows - 1)) if unbiased else side.total / side.rows**2
        for side in (real, fake)
    )
    return within - 2 * cross.total / (cross.rows * cross.columns)


def squared_mmd(real: Tensor, fake: Tensor, kernel: str = "polynomial") -> float:
    """Squared MMD of (m, d) and (n, d): unbiased for "polynomial", the biased estimate times 1000 for "gaussian"."""
    if kernel == "gaussian":
        real, fake = (torch.nn.functional.normalize(side, dim=1) for side in (real, fake))
    sums = [kernel_sums(*pair, kernel) for pair in ((real, real), (fake, fake), (real, fake))]
    return kernel_compute(*sums, unbiased=kernel == "polynomial") * (SCALE if kernel == "gaussian" else 1.0)


class KernelDistance(FeatureSetMetric):
    """Kernel distance between real and fake images or features; KID with the Inception of 2015, CMMD with CLIP.

    kernel: "polynomial" or "gaussian". subset_size, subsets: where a side has more than subset_size samples, the mean
    over that many random subsets, as published (1000, 100); None takes all pairs at once, as CMMD always does. Sets of
    at most subset_size are taken whole. confidence: e.g. 0.95 for an interval, from the spread over the subsets.
    """

    higher_is_better = False

    def __init__(
        self, feature_extractor=None, *, kernel="polynomial", subset_size=1000, subsets=100, confidence=None, **kwargs
    ):
        super().__init__(feature_extractor, **kwargs)
        if kernel not in KERNELS:
            raise InputError(f"kernel {kernel!r} is not known" + nearest(kernel, KERNELS))
        self.kernel, self.subsets = kernel, subsets
        self.subset_size = subset_size if kernel == "polynomial" else None
        self.confidence = checked_confidence(confidence)

    def compute(self) -> MetricResult:
        real, fake = self.sides(least=2)
        estimates, used = self._estimates(real, fake)
        value = estimates.mean().item()
        drawn = {"subset_size": used, "subsets": len(estimates), "seed": self.seed} if len(estimates) > 1 else {}
        return MetricResult(
            name=self.source.label("KD" if self.kernel == "polynomial" else "CMMD"),
            value=value,
            n={"real": len(real), "fake": len(fake)},
            interval=self._interval(estimates, min(len(real), len(fake)), used),
            provenance={**self.provenance(), "kernel": self.kernel, **drawn, "confidence": self.confidence},
            warnings=_warnings(self.kernel, len(real), len(fake)),
            details={"std": estimates.std().item()} if len(estimates) > 1 else {},
        )

    def _estimates(self, real: Tensor, fake: Tensor) -> tuple[Tensor, int]:
        largest = max(len(real), len(fake))
        size = self.subset_size or largest
        if largest <= size:
            return torch.tensor([squared_mmd(real, fake, self.kernel)], dtype=torch.float64), largest
        generator = torch.Generator().manual_seed(self.seed)
        drawn = ((subset(real, size, generator), subset(fake, size, generator)) for _ in range(self.subsets))
        return torch.tensor([squared_mmd(*pair, self.kernel) for pair in drawn], dtype=torch.float64), size

    def _interval(self, estimates: Tensor, n: int, size: int) -> tuple[float, float] | None:
        """The variance over subsets falls as 1 / size, so it scales to N; the draw of the subsets adds its own."""
        if self.confidence is None or len(estimates) < 2:
            return None
        z = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + self.confidence) / 2)).item()
        half = z * estimates.std().item() * math.sqrt(min(size / n, 1) + 1 / len(estimates))
        return estimates.mean().item() - half, estimates.mean().item() + half


def _warnings(kernel: str, real: int, fake: int) -> list[str]:
    if kernel == "gaussian" and min(real, fake) < 1000:
        return [f"N = {min(real, fake)}: the biased estimate of CMMD is upwards by about 1000 / N"]
    return []
