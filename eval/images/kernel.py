"""Kernel distance (squared MMD): KernelDistance, and the pure pair subset_sums / kernel_compute.

KID (Binkowski et al. 2018): the unbiased estimate with the kernel (x.y / d + 1)^3, mean over random subsets.
CMMD (Jayasumana et al. 2024): the biased estimate with a Gaussian kernel, sigma = 10, on unit-length CLIP embeddings,
times 1000. Unlike the Frechet distance the unbiased one has no bias at any N, and the two sets may differ in size.

Subsets are columns of zeros and ones: with W (m, s) the sums of a kernel matrix K over all s subsets are the columns of
W^T K W's diagonal, so that K is computed once, in blocks, instead of once a subset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest, require
from mot_gen.eval.images.feature_sets import BLOCK, FeatureSetMetric, draw_indices
from mot_gen.eval.result import MetricResult, checked_confidence

KERNELS = ("polynomial", "gaussian")
SIGMA, SCALE = 10.0, 1000.0


class KernelSums(NamedTuple):
    """For each of s subsets of one pair of sets: sums (s,) of k over all pairs, over the diagonal (of a set with
    itself; zero else), and how many rows and columns the subset has (s,)."""

    total: Tensor
    diagonal: Tensor
    rows: Tensor
    columns: Tensor


def kernel_values(one: Tensor, two: Tensor, kernel: str) -> Tensor:
    """(m, n) kernel of (m, d) and (n, d). "gaussian" is of rows of unit length."""
    if kernel == "gaussian":
        squared = 2 - 2 * one @ two.mT
        return squared.clamp_(min=0).div_(-2 * SIGMA**2).exp_()
    values = (one @ two.mT).div_(one.shape[1]).add_(1)
    return values * values * values


def sums_within(rows: Tensor, members: Tensor, kernel: str) -> KernelSums:
    """Sums over a set (m, d) with itself for the subsets `members` (m, s); each block of the symmetric half once."""
    total = diagonal = members.new_zeros(members.shape[1])
    for start in range(0, len(rows), BLOCK):
        own = slice(start, start + BLOCK)
        square = kernel_values(rows[own], rows[own], kernel)
        total = total + _weighted(square, members[own], members[own])
        diagonal = diagonal + square.diagonal() @ members[own]
        for block in _blocks(start + BLOCK, len(rows)):
            values = kernel_values(rows[own], rows[block], kernel)
            total = total + 2 * _weighted(values, members[own], members[block])
    counts = members.sum(0)
    return KernelSums(total, diagonal, counts, counts)


def sums_across(one: Tensor, two: Tensor, own: Tensor, other: Tensor, kernel: str) -> KernelSums:
    """Sums between (m, d) and (n, d) for the subsets `own` (m, s) and `other` (n, s)."""
    total = own.new_zeros(own.shape[1])
    for block in _blocks(0, len(one)):
        values = kernel_values(one[block], two, kernel)
        total = total + _weighted(values, own[block], other)
    return KernelSums(total, torch.zeros_like(total), own.sum(0), other.sum(0))


def _blocks(start: int, stop: int) -> Iterator[slice]:
    for begin in range(start, stop, BLOCK):
        yield slice(begin, min(begin + BLOCK, stop))


def _weighted(values: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """(s,): the sum of each subset's part of a kernel matrix."""
    return ((values @ other) * own).sum(0)


def kernel_compute(real: KernelSums, fake: KernelSums, cross: KernelSums, unbiased: bool) -> Tensor:
    """(s,) squared MMD; `unbiased` leaves out the diagonals (a U-statistic), and may then be negative."""
    within = cross.total.new_zeros(())
    for side in (real, fake):
        if unbiased:
            within = within + (side.total - side.diagonal) / (side.rows * (side.rows - 1))
        else:
            within = within + side.total / side.rows**2
    return within - 2 * cross.total / (cross.rows * cross.columns)


def squared_mmd(real: Tensor, fake: Tensor, kernel: str = "polynomial") -> float:
    """Squared MMD of (m, d) and (n, d): unbiased for "polynomial", the biased estimate times 1000 for "gaussian"."""
    return mmd_of_subsets(real, fake, real.new_ones(len(real), 1), fake.new_ones(len(fake), 1), kernel).item()


def mmd_of_subsets(real: Tensor, fake: Tensor, own: Tensor, other: Tensor, kernel: str) -> Tensor:
    """(s,) squared MMD of s pairs of subsets, given as columns of zeros and ones, (m, s) and (n, s)."""
    if kernel == "gaussian":
        real, fake = torch.nn.functional.normalize(real, dim=1), torch.nn.functional.normalize(fake, dim=1)
    sums = (
        sums_within(real, own, kernel),
        sums_within(fake, other, kernel),
        sums_across(real, fake, own, other, kernel),
    )
    if kernel == "gaussian":
        return SCALE * kernel_compute(*sums, unbiased=False)
    return kernel_compute(*sums, unbiased=True)


def members_of(drawn_rows: Sequence[Tensor], count: int) -> Tensor:
    """(count, s) float64 of zeros and ones: which rows each of s subsets holds."""
    members = torch.zeros(count, len(drawn_rows), dtype=torch.float64)
    for column, numbers in enumerate(drawn_rows):
        members[numbers, column] = 1
    return members


class KernelDistance(FeatureSetMetric):
    """Kernel distance between real and fake images or features; KID with the Inception of 2015, CMMD with CLIP.

    kernel: "polynomial" or "gaussian". subset_size, subsets: where a side has more than subset_size samples, the mean
    over that many random subsets, as published (1000, 100); None takes all pairs at once, as CMMD always does. Sets of
    at most subset_size are taken whole. confidence: e.g. 0.95 for an interval, from the spread over the subsets.

    The spread is the standard deviation over subsets with `std_ddof` = 1; torchmetrics and torch-fidelity divide by the
    number of subsets (ddof 0), which is 0.5% less at 100.
    """

    higher_is_better = False

    def __init__(
        self, feature_extractor=None, *, kernel="polynomial", subset_size=1000, subsets=100, confidence=None, **kwargs
    ):
        super().__init__(feature_extractor, **kwargs)
        if kernel not in KERNELS:
            raise InputError(f"kernel {kernel!r} is not known" + nearest(kernel, KERNELS))
        require(subset_size is None or subset_size >= 2, f"subset_size: must be None or at least 2, got {subset_size}")
        require(subsets >= 1, f"subsets: must be at least 1, got {subsets}")
        self.kernel, self.subsets = kernel, subsets
        self.subset_size = subset_size if kernel == "polynomial" else None
        self.confidence = checked_confidence(confidence)

    def compute(self) -> MetricResult:
        real, fake = self.sides()
        estimates, used = self._estimates(real, fake)
        facts, details = {}, {}
        if len(estimates) > 1:
            facts = {"subset_size": used, "subsets": len(estimates), "std_ddof": 1, "seed": self.seed}
            details = {"std": estimates.std().item()}
        short = "KD" if self.kernel == "polynomial" else "CMMD"
        return MetricResult(
            name=self.source.label(short),
            value=estimates.mean().item(),
            n={"real": len(real), "fake": len(fake)},
            interval=self._interval(estimates, min(len(real), len(fake)), used),
            provenance={**self.provenance(), "kernel": self.kernel, **facts, "confidence": self.confidence},
            warnings=[*_warnings(self.kernel, len(real), len(fake)), *self._no_interval(estimates)],
            details=details,
        )

    def _estimates(self, real: Tensor, fake: Tensor) -> tuple[Tensor, int]:
        """The distance of each pair of subsets, on the CPU, and how large a subset is."""
        largest = max(len(real), len(fake))
        size = self.subset_size or largest
        if largest <= size:
            return torch.tensor([squared_mmd(real, fake, self.kernel)], dtype=torch.float64), largest
        generator = torch.Generator().manual_seed(self.seed)
        pairs = []
        for _ in range(self.subsets):
            pairs.append((draw_indices(len(real), size, generator), draw_indices(len(fake), size, generator)))
        if _all_pairs_are_fewer(len(real), len(fake), size, self.subsets):
            ours, theirs = zip(*pairs)
            own = members_of(ours, len(real)).to(real.device)
            other = members_of(theirs, len(fake)).to(fake.device)
            return mmd_of_subsets(real, fake, own, other, self.kernel).cpu(), size
        each = [squared_mmd(real[one.to(real.device)], fake[two.to(fake.device)], self.kernel) for one, two in pairs]
        return torch.tensor(each, dtype=torch.float64), size

    def _no_interval(self, estimates: Tensor) -> list[str]:
        """What is said where an interval was asked for and there is none."""
        if self.confidence is None or len(estimates) > 1:
            return []
        needed = "CMMD has none" if self.subset_size is None else f"it takes more than {self.subset_size:,} samples"
        return [f"no interval, since nothing was drawn several times: {needed}"]

    def _interval(self, estimates: Tensor, n: int, size: int) -> tuple[float, float] | None:
        """The variance over subsets falls as 1 / size, so it scales to N; the draw of the subsets adds its own."""
        if self.confidence is None or len(estimates) < 2:
            return None
        z = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + self.confidence) / 2)).item()
        half = z * estimates.std().item() * math.sqrt(min(size / n, 1) + 1 / len(estimates))
        return estimates.mean().item() - half, estimates.mean().item() + half


def _all_pairs_are_fewer(real: int, fake: int, size: int, subsets: int) -> bool:
    """Whether one kernel matrix of everything has fewer entries than those of all subsets."""
    real_size, fake_size = min(real, size), min(fake, size)
    whole = real**2 / 2 + fake**2 / 2 + real * fake
    parts = real_size**2 / 2 + fake_size**2 / 2 + real_size * fake_size
    return whole < subsets * parts


def _warnings(kernel: str, real: int, fake: int) -> list[str]:
    if kernel == "gaussian" and min(real, fake) < 1000:
        return [f"N = {min(real, fake)}: the biased estimate of CMMD is upwards by about 1000 / N"]
    return []
