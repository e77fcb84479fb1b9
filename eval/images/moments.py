"""Moments: n, mean and the sum of squared deviations M2 of a set of features, in float64, merged by Chan's formula.

Float32 sums of squares lose the covariance when features are far from zero (2% at an offset of 30); M2 about the
running mean does not (Chan, Golub and LeVeque 1983). Legend: n features counted, d their dimension.

Packed moments are one tensor (d + 2, d), which processes can exchange: n in the first row, the mean, then M2, of which
only the lower triangle counts. `add_features` adds a batch to it in place, since at d = 2048 a copy of M2 costs more
than a batch's product; on a CPU it computes that triangle alone, which halves the product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import torch
from scipy.linalg import blas
from torch import Tensor

from mot_gen.errors import InputError, require


class Moments(NamedTuple):
    """Count, mean and scatter of features, kept so that batches can be added.

    n: count. mean: (d,) float64. m2: (d, d) float64, the sum of outer products of deviations from the mean.
    """

    n: int
    mean: Tensor
    m2: Tensor

    @property
    def covariance(self) -> Tensor:
        """(d, d), unbiased: m2 / (n - 1)."""
        return self.m2 / (self.n - 1)

    def pack(self) -> Tensor:
        """(d + 2, d), see the module; (0, 0) where n is 0."""
        if not self.n:
            return self.m2.new_zeros(0, 0)
        return torch.cat([torch.full_like(self.mean, self.n)[None], self.mean[None], self.m2])


def unpack_moments(packed: Tensor) -> Moments:
    """The inverse of `Moments.pack`; (0, 0) is no moments at all, n = 0."""
    if not packed.shape[0]:
        return Moments(0, packed.new_zeros(0), packed.new_zeros(0, 0))
    lower = packed[2:].tril()
    return Moments(int(packed[0, 0].item()), packed[1], lower + lower.tril(-1).mT)


def checked_features(features: Tensor) -> Tensor:
    """(N, d) float64; InputError for another shape, or where a feature is not finite."""
    if features.ndim != 2:
        raise InputError(f"features must be (N, d), got shape {tuple(features.shape)}; flatten or pool them first")
    features = features.detach().double()
    if not torch.isfinite(features).all():
        raise InputError("features hold NaN or infinity; check the images and the extractor's dtype (use float32)")
    return features


def moments_of(features: Tensor) -> Moments:
    """Moments of one batch of features (n, d), any floating dtype. InputError where a feature is not finite."""
    features = checked_features(features)
    if not len(features):
        return unpack_moments(features.new_zeros(0, 0))
    mean = features.mean(0)
    centred = features - mean
    return Moments(len(features), mean, centred.mT @ centred)


def add_features(packed: Tensor, features: Tensor) -> Tensor:
    """Packed moments with a batch (N, d) added: the same tensor, changed in place, or a new one where it was empty."""
    if not packed.shape[0]:
        return moments_of(features).pack()
    features = checked_features(features)
    if not len(features):
        return packed
    _check_dimensions(packed.shape[1], features.shape[1])
    before, new = packed[0, 0].item(), len(features)
    mean, m2 = packed[1], packed[2:]
    batch_mean = features.mean(0)
    delta = batch_mean - mean
    # Chan's correction is the outer product of delta with itself: one more row beside the batch's own.
    rows = features.new_empty(new + 1, features.shape[1])
    torch.sub(features, batch_mean, out=rows[:new])
    torch.mul(delta, math.sqrt(before * new / (before + new)), out=rows[new])
    _add_products(m2, rows)
    mean.add_(delta, alpha=new / (before + new))
    packed[0] = before + new
    return packed


def _add_products(m2: Tensor, rows: Tensor) -> None:
    """m2 += rows^T rows in place, at least in the lower triangle; m2 (d, d), rows (n, d), float64 and contiguous."""
    if m2.device.type != "cpu":
        m2.addmm_(rows.mT, rows)
        return
    # BLAS counts by columns, so it sees both matrices transposed, and our lower triangle as its upper one.
    blas.dsyrk(1.0, rows.numpy().T, beta=1.0, c=m2.numpy().T, overwrite_c=1)


def merge_moments(one: Moments, two: Moments) -> Moments:
    """Moments of the union of two sets."""
    if not one.n or not two.n:
        return one if one.n else two
    _check_dimensions(len(one.mean), len(two.mean))
    n, delta = one.n + two.n, two.mean - one.mean
    m2 = one.m2 + two.m2 + torch.outer(delta, delta) * (one.n * two.n / n)
    return Moments(n, one.mean + delta * (two.n / n), m2)


def _check_dimensions(one: int, two: int) -> None:
    require(one == two, f"features of {one} and {two} dimensions meet; use one extractor for all")


def merge_packed(parts: Iterable[Tensor]) -> Tensor:
    """`merge_moments` over packed moments: the merge function of a metric's state."""
    return reduce(merge_moments, map(unpack_moments, parts)).pack()
