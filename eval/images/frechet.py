"""Frechet distance between two sets of features: FrechetDistance, and the pure pair frechet_update / frechet_compute.

    d^2 = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))     (Dowson and Landau 1982; Heusel et al. 2017)

The trace term needs no matrix square root: with S_1 = L L^T it is the sum of the square roots of the eigenvalues of
L^T S_2 L, and with any factors S_i = A_i A_i^T it is the nuclear norm of A_1^T A_2. The first is fast and right for
full rank. Fewer samples than dimensions have factors of few columns, by pivoted Cholesky: the first with the smaller
factor for L, where S_2 reaches all of its columns, else the second, which has no square root of a rounding error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.linalg import lapack
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.images.features import FeatureSource
from mot_gen.eval.images.moments import (
    Moments,
    add_features,
    merge_moments,
    merge_packed,
    moments_of,
    unpack_moments,
)
from mot_gen.eval.result import MetricResult, checked_confidence

# Below this many samples the estimate's bias is of the size of what it measures (Chong and Forsyth 2020).
SMALL = 10_000
NEGATIVE = 1e-9  # of the trace: what rounding leaves of a covariance without a negative part is far below
NORMAL_QUANTILE = torch.distributions.Normal(0.0, 1.0).icdf


class TraceTerm(NamedTuple):
    """The last term of the distance, and how it was computed.

    value: tr((S_1 S_2)^(1/2)). clamped: mass of the negative eigenvalues that rounding made, relative to the rest.
    method: "cholesky", "gram" or "nuclear".
    """

    value: float
    clamped: float
    method: str


def frechet_update(moments: Moments | None, features: Tensor) -> Moments:
    """Moments with a batch of features (N, d) added; None to begin."""
    batch = moments_of(features)
    return batch if moments is None else merge_moments(moments, batch)


def frechet_compute(real: Moments, fake: Moments) -> float:
    """The squared Frechet distance that is called FID when the features are. InputError if a side has n < 2."""
    return _distance(real, fake, trace_term(real, fake))


def trace_term(real: Moments, fake: Moments) -> TraceTerm:
    """tr((S_1 S_2)^(1/2)) of the two covariances, by the method that their rank allows."""
    _check_counts(real, fake)
    full_rank = min(real.n, fake.n) > len(real.mean)
    term = _trace_by_cholesky(real.m2, fake.m2) if full_rank else None
    term = term or _trace_by_factors(real.m2, fake.m2)
    return term._replace(value=term.value / math.sqrt((real.n - 1) * (fake.n - 1)))


def _trace_by_cholesky(one: Tensor, two: Tensor) -> TraceTerm | None:
    """The trace by Cholesky factors; None where either matrix is singular to working precision."""
    factor, failed = torch.linalg.cholesky_ex(one)
    return None if failed else _trace_by_eigenvalues(_congruence(factor, two), "cholesky")


def _trace_by_eigenvalues(product: Tensor, method: str) -> TraceTerm | None:
    """The trace by eigenvalues of A^T S A, whose lower triangle is read; None where an eigenvalue is mere rounding."""
    eigenvalues = torch.linalg.eigvalsh(product, UPLO="L")
    if not len(eigenvalues) or eigenvalues[0] <= _rounding(eigenvalues):
        return None
    return TraceTerm(eigenvalues.sqrt().sum().item(), 0.0, method)


def _congruence(factor: Tensor, matrix: Tensor) -> Tensor:
    """Lower triangle of L^T S L, S symmetric: on a CPU as LAPACK reduces a generalised eigenproblem, which leaves out
    the zeros and the symmetric half, a quarter of two full products."""
    if factor.device.type != "cpu":
        return factor.mT @ matrix @ factor
    fortran = factor.mT.contiguous().numpy().T
    return torch.from_numpy(lapack.dsygst(matrix.numpy().T, fortran, itype=2, lower=1)[0])


def _trace_by_factors(one: Tensor, two: Tensor) -> TraceTerm:
    """The trace for matrices of any rank: by eigenvalues of the smaller product if it has full rank, else the nuclear
    norm."""
    (a, clamped_a), (b, clamped_b) = _factor(one), _factor(two)
    clamped = max(clamped_a, clamped_b)
    if not a.numel() or not b.numel():
        return TraceTerm(0.0, clamped, "nuclear")
    if not clamped:
        factor, other = (a, two) if a.shape[1] <= b.shape[1] else (b, one)
        term = _trace_by_eigenvalues(factor.mT @ other @ factor, "gram")
        if term is not None:
            return term
    return TraceTerm(torch.linalg.svdvals(a.mT @ b).sum().item(), clamped, "nuclear")


def _factor(matrix: Tensor) -> tuple[Tensor, float]:
    """(d, r) factor A with A A^T = matrix, r its numerical rank; and the relative mass of negative eigenvalues."""
    factor = _pivoted_cholesky(matrix)
    if factor is not None:
        return factor, 0.0
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > _rounding(values)
    total = values.clamp(min=0).sum().item()
    clamped = -values.clamp(max=0).sum().item()
    return vectors[:, kept] * values[kept].sqrt(), clamped / total if total else 0.0


def _pivoted_cholesky(matrix: Tensor) -> Tensor | None:
    """(d, r) factor in r d^2 operations, no eigenvectors; None where the matrix has a negative part."""
    fortran, pivots, rank, _ = lapack.dpstrf(matrix.cpu().numpy().T, lower=1)
    factor = torch.zeros(len(matrix), rank, dtype=matrix.dtype)
    factor[torch.from_numpy(pivots).long() - 1] = torch.from_numpy(fortran).tril()[:, :rank]
    factor = factor.to(matrix.device)
    # What the factor leaves of the matrix is seen in its product with one vector in no special direction.
    probe = torch.randn(len(matrix), generator=torch.Generator().manual_seed(0), dtype=matrix.dtype).to(matrix.device)
    left = (matrix @ probe - factor @ (factor.mT @ probe)).abs().max()
    return factor if left <= NEGATIVE * torch.trace(matrix) else None


def _rounding(eigenvalues: Tensor) -> float:
    """An eigenvalue below this is rounding: d * eps * the largest."""
    return len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues[-1].clamp(min=0).item()


def _check_counts(real: Moments, fake: Moments):
    for side, moments in (("real", real), ("fake", fake)):
        require(moments.n >= 2, f"{side}: N = {moments.n}, but the Frechet distance needs at least 2 samples a side")
    if real.mean.shape != fake.mean.shape:
        raise InputError(
            f"real features have {len(real.mean)} dimensions, fake ones {len(fake.mean)}; use one extractor "
            "for both, and pictures of one size if it is pixels"
        )


def _distance(real: Moments, fake: Moments, trace: TraceTerm) -> float:
    mean_term = (real.mean - fake.mean).square().sum().item()
    traces = sum(torch.trace(side.m2).item() / (side.n - 1) for side in (real, fake))
    # The true distance is never negative; rounding makes two equal sets differ by a few ulp of the traces.
    return max(mean_term + traces - 2 * trace.value, 0.0)


def frechet_standard_error(real: Moments, fake: Moments) -> float:
    """Standard error of the distance by the delta method, under the Gaussian model that the distance itself makes.

    The derivative by S_2 is I - T with T the optimal map from S_2 to S_1, so each side adds
    (4 delta^T S delta + 2 tr(((I - T) S)^2)) / n. It measures spread, not the bias of a small sample.
    """
    _check_counts(real, fake)
    delta = real.mean - fake.mean
    return math.sqrt(_variance(delta, real, fake) + _variance(delta, fake, real))


def _variance(delta: Tensor, own: Moments, other: Moments) -> float:
    """tr(((I - T) S)^2) = tr(S^2) - 2 tr(T S S) + tr(S S'), and T S = (S' S)^(1/2), here by the factor A of S."""
    own_cov, other_cov = own.covariance, other.covariance
    factor, _ = _factor(own_cov)
    values, vectors = torch.linalg.eigh(factor.mT @ other_cov @ factor)
    rotated = factor @ vectors  # T = A^-T M^(1/2) A^-1, so tr(T S S) = tr(M^(1/2) A^T A)
    mixed = (rotated.square().sum(0) * values.clamp(min=0).sqrt()).sum()
    spread = own_cov.square().sum() - 2 * mixed + (own_cov * other_cov).sum()
    return (4 * delta @ own_cov @ delta + 2 * spread.clamp(min=0)).item() / own.n


class FrechetDistance(Accumulator):
    """Frechet distance between real and fake images (with an extractor) or features (without).

    `update(batch, real=...)` takes features (N, d), or with a `feature_extractor` also images (N, 3, H, W), uint8 or
    float in [0, 1]. The extractor is a name or path for `load_extractor`, an `Extractor`, or any `nn.Module`.
    reference: an .npz file of `mot-gen eval stats` in place of real samples; refused if its extractor, weights or
    resize mode is another. confidence: e.g. 0.95 for an interval (one eigendecomposition a side more).
    """

    higher_is_better = False
    takes = "features"
    real: Tensor  # packed moments
    fake: Tensor

    def __init__(self, feature_extractor=None, *, reference=None, confidence=None, clamp=False, **kwargs):
        super().__init__(**kwargs)
        self.source = FeatureSource(feature_extractor, clamp)
        self.confidence = checked_confidence(confidence)
        self.reference = self.source.load_reference(reference) if reference is not None else None
        for side in ("real", "fake"):
            self.add_tensor(side, torch.zeros(0, 0, dtype=torch.float64), merge_packed)

    def update(self, batch: Tensor, real: bool):
        if real and self.reference is not None:
            raise InputError("real samples were given although a reference was; drop one of the two")
        side = "real" if real else "fake"
        features = self.source(batch).to(self.device)
        setattr(self, side, add_features(getattr(self, side), features))

    def compute(self) -> MetricResult:
        fake = unpack_moments(self.fake)
        real = unpack_moments(self.real) if self.reference is None else _moved(self.reference.moments, self.device)
        trace = trace_term(real, fake)
        value = _distance(real, fake, trace)
        return MetricResult(
            name=self.source.label("FD"),
            value=value,
            n={"real": real.n, "fake": fake.n},
            interval=self._interval(value, real, fake),
            provenance=self._provenance(real),
            warnings=_warnings(real, fake, trace),
            details={"trace_term": trace.value, "mean_term": (real.mean - fake.mean).square().sum().item()},
        )

    def _interval(self, value: float, real: Moments, fake: Moments) -> tuple[float, float] | None:
        if self.confidence is None:
            return None
        half = NORMAL_QUANTILE(torch.tensor((1 + self.confidence) / 2)).item() * frechet_standard_error(real, fake)
        return max(value - half, 0.0), value + half

    def _provenance(self, real: Moments) -> dict:
        reference = None if self.reference is None else self.reference.fingerprint
        return {**self.source.provenance(), "d": len(real.mean), "reference": reference, "confidence": self.confidence}


def _moved(moments: Moments, device: torch.device) -> Moments:
    return Moments(moments.n, moments.mean.to(device), moments.m2.to(device))


def _warnings(real: Moments, fake: Moments, trace: TraceTerm) -> list[str]:
    fewest, dimension, found = min(real.n, fake.n), len(real.mean), []
    if fewest <= dimension:
        found.append(f"N = {fewest} is not above d = {dimension}: biased upwards; use KernelDistance")
    elif fewest < SMALL:
        found.append(f"N = {fewest} is below {SMALL}: biased upwards; use KernelDistance or FID-infinity")
    if trace.clamped > 1e-6:
        found.append(f"negative eigenvalues of relative mass {trace.clamped:.1e} clamped: the covariance is not exact")
    return found
