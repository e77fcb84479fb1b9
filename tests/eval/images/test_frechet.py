"""Frechet distance: closed forms for Gaussians, rank deficiency, shifts, merging, references, intervals."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from mot_gen.errors import InputError
from mot_gen.eval.images.frechet import (
    FrechetDistance,
    _congruence,
    frechet_compute,
    frechet_standard_error,
    frechet_update,
    trace_term,
)
from mot_gen.eval.images.moments import Moments, add_features, merge_packed, moments_of, unpack_moments
from mot_gen.eval.images.statistics import ReferenceStatistics


def gaussian(mean, covariance, n=1001):
    """Moments that are exactly those of a Gaussian."""
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    return Moments(n, torch.as_tensor(mean, dtype=torch.float64), covariance * (n - 1))


def spd(d, seed):
    a = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.mT / d + 0.1 * torch.eye(d, dtype=torch.float64)


def features(n, d, seed, scale=1.0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift


def test_identical_gaussians_are_at_zero():
    one = gaussian(torch.arange(16.0), spd(16, 0))
    assert frechet_compute(one, one) == pytest.approx(0, abs=1e-9)


def test_mean_shift_is_its_squared_length():
    cov = spd(8, 1)
    assert frechet_compute(gaussian(torch.zeros(8), cov), gaussian(torch.full((8,), 3.0), cov)) == pytest.approx(
        72, rel=1e-9
    )


def test_diagonal_covariances():
    s, t = torch.linspace(0.1, 4, 20, dtype=torch.float64), torch.linspace(5, 0.2, 20, dtype=torch.float64)
    expected = (s - t).square().sum().item()
    found = frechet_compute(gaussian(torch.zeros(20), torch.diag(s**2)), gaussian(torch.zeros(20), torch.diag(t**2)))
    assert found == pytest.approx(expected, rel=1e-9)


def test_congruence_is_the_lower_triangle_of_the_product():
    factor, matrix = torch.linalg.cholesky(spd(600, 4)), spd(600, 5)
    expected = factor.mT @ matrix @ factor
    assert torch.allclose(torch.tril(_congruence(factor, matrix)), torch.tril(expected), rtol=1e-12, atol=1e-12)


def test_two_by_two_by_trace_and_determinant():
    a, b = spd(2, 2), spd(2, 3)
    root = math.sqrt(torch.trace(a @ b) + 2 * math.sqrt(torch.det(a) * torch.det(b)))
    assert trace_term(gaussian([0, 0], a), gaussian([0, 0], b)).value == pytest.approx(root, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_full_rank_against_scipy(shift):
    real, fake = features(900, 24, 0, 2.0), features(700, 24, 1, 1.3, 0.2)
    cov = [np.cov(x.numpy().T) for x in (real, fake)]
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum().item()
    expected += np.trace(cov[0] + cov[1] - 2 * scipy.linalg.sqrtm(cov[0] @ cov[1])).real
    found = frechet_compute(moments_of(real + shift), moments_of(fake + shift))
    assert found == pytest.approx(expected, rel=1e-6 if shift else 1e-9)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("method", ["gram", "nuclear"])
def test_fewer_samples_than_dimensions_is_the_nuclear_norm(shift, method):
    real, fake = features(40, 90, 2), features(60, 90, 3, torch.linspace(0.01, 3, 90, dtype=torch.float64))
    if method == "nuclear":  # directions of the smaller side that the larger does not reach
        real[:, 60:] = 0
        fake[:, :40] = 0
    centred = [x - x.mean(0) for x in (real, fake)]
    nuclear = torch.linalg.svdvals(centred[0] @ centred[1].mT).sum().item() / math.sqrt(39 * 59)
    term = trace_term(moments_of(real + shift), moments_of(fake + shift))
    assert term.method == method
    assert term.value == pytest.approx(nuclear, rel=1e-6 if shift else 1e-9)


def test_dead_feature_falls_back_and_changes_nothing():
    real, fake = features(500, 6, 4), features(500, 6, 5, 1.5)
    dead = torch.zeros(500, 1, dtype=torch.float64)
    padded = [moments_of(torch.cat([x, dead], 1)) for x in (real, fake)]
    assert trace_term(*padded).method == "gram"
    assert frechet_compute(*padded) == pytest.approx(frechet_compute(moments_of(real), moments_of(fake)), rel=1e-9)


def test_a_negative_part_is_clamped_and_its_mass_told():
    """No covariance, but what statistics of low precision can hold: eigenvalues 4, 1, -0.01 against the identity."""
    rotation = torch.linalg.qr(spd(3, 6))[0]
    broken = rotation @ torch.diag(torch.tensor([4.0, 1.0, -0.01], dtype=torch.float64)) @ rotation.mT
    term = trace_term(gaussian([0, 0, 0], broken), gaussian([0, 0, 0], torch.eye(3)))
    assert term.value == pytest.approx(3, rel=1e-9) and term.clamped == pytest.approx(0.01 / 5, rel=1e-6)
    swapped = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # a diagonal without a sign, so that no pivot shows it
    assert trace_term(gaussian([0, 0], swapped), gaussian([0, 0], torch.eye(2))).clamped == pytest.approx(1)


def test_offset_of_thirty_in_float32_keeps_the_covariance():
    values = features(5000, 4, 6).float() + 30
    expected = torch.from_numpy(np.cov(values.double().numpy().T))
    moments = None
    for batch in values.split(37):
        moments = frechet_update(moments, batch)
    assert torch.allclose(moments.covariance, expected, rtol=1e-12, atol=1e-12)


def test_bfloat16_features_are_summed_in_float64():
    values = (features(3000, 8, 7) * 20).bfloat16()
    metric = FrechetDistance()
    metric.update(values, real=True)
    metric.update(values.double() + 3, real=False)
    assert metric.compute().value == pytest.approx(8 * 9, rel=1e-9)


def test_merge_is_order_free_and_ignores_empty_shares():
    values = features(101, 5, 8)
    packed = [moments_of(x).pack() for x in (values[:1], values[1:60], values[:0], values[60:])]
    whole = moments_of(values).pack()
    assert torch.allclose(merge_packed(packed), whole, rtol=1e-12, atol=1e-12)
    assert torch.allclose(merge_packed(packed[::-1]), whole, rtol=1e-12, atol=1e-12)


def test_standard_error_is_the_spread_over_repeated_draws():
    found, predicted = [], []
    for seed in range(150):
        real, fake = moments_of(features(800, 4, seed)), moments_of(features(800, 4, seed + 999, 1.4, 0.3))
        found.append(frechet_compute(real, fake))
        predicted.append(frechet_standard_error(real, fake))
    assert np.mean(predicted) == pytest.approx(np.std(found), rel=0.15)


def test_few_samples_warn_and_one_is_an_error():
    metric = FrechetDistance()
    metric.update(features(8, 12, 0), real=True)
    metric.update(features(1, 12, 1), real=False)
    with pytest.raises(InputError, match="fake: N = 1"):
        metric.compute()
    metric.update(features(7, 12, 1), real=False)
    assert any("not above d = 12" in line for line in metric.compute().warnings)


def test_not_finite_or_images_without_extractor_are_refused():
    metric = FrechetDistance()
    with pytest.raises(InputError, match="NaN"):
        metric.update(torch.full((3, 2), math.nan), real=True)
    with pytest.raises(InputError, match="feature extractor"):
        metric.update(torch.zeros(2, 3, 8, 8), real=True)


def test_reference_file_round_trip_and_refusals(tmp_path):
    real, fake = features(300, 6, 0), features(300, 6, 1, 1.2)
    path = tmp_path / "ref.npz"
    ReferenceStatistics(moments_of(real), {"extractor": "features"}).save(path)
    metric = FrechetDistance(reference=path)
    metric.update(fake, real=False)
    result = metric.compute()
    assert result.value == pytest.approx(frechet_compute(moments_of(real), moments_of(fake)), rel=1e-12)
    assert result.provenance["reference"] == ReferenceStatistics.load(path).fingerprint
    ReferenceStatistics(moments_of(real), {"extractor": "other"}).save(path)
    with pytest.raises(InputError, match="computed with extractor 'other'"):
        FrechetDistance(reference=path)
    arrays = dict(np.load(path))
    arrays["n"] = 299
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="fingerprint"):
        ReferenceStatistics.load(path)


def test_to_dict_is_json_with_one_signature_line():
    metric = FrechetDistance(confidence=0.9)
    metric.update(features(50, 3, 0), real=True)
    metric.update(features(50, 3, 1, 2.0), real=False)
    result = metric.compute()
    found = result.to_dict()
    assert found["value"] == float(result) and found["interval"][0] < result.value < found["interval"][1]
    assert "\n" not in found["signature"] and "n.real:50" in found["signature"] and "torch-" in found["signature"]


@pytest.mark.parametrize("sizes", [(1, 1, 5), (16, 16, 16, 9), (0, 40, 0, 2)])
def test_features_are_added_in_place(sizes):
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, 6, generator=g, dtype=torch.float64) * 3 + 30 for size in sizes]
    packed = torch.zeros(0, 0, dtype=torch.float64)
    for part in parts:
        before = packed.data_ptr()
        packed = add_features(packed, part)
        assert before in (0, packed.data_ptr())
    found, expected = unpack_moments(packed), moments_of(torch.cat(parts))
    assert found.n == expected.n
    assert torch.allclose(found.mean, expected.mean, rtol=1e-13)
    assert torch.allclose(found.m2, expected.m2, rtol=1e-11, atol=1e-11)
    with pytest.raises(InputError, match="6 and 5 dimensions"):
        add_features(packed, torch.zeros(2, 5))
