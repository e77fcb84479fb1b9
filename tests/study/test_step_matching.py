"""Step matching to closed forms: runs whose losses are one curve at two speeds, noise, runs that never get there."""

import numpy as np
import pytest

from mot_gen.errors import InputError
from mot_gen.reports.curves import smooth
from mot_gen.study.step_matching import first_reached, match, monotone


def power_law(speed=1.0, steps=1000, every=1, seed=None):
    """2 t^-0.3 + 0.1, run `speed` times as fast, perhaps with noise."""
    at = np.arange(every, steps + 1, every, dtype=float)
    losses = 2 * (at * speed) ** -0.3 + 0.1
    if seed is not None:
        losses += 0.02 * np.random.default_rng(seed).standard_normal(len(at))
    return list(zip(at, losses))


@pytest.mark.parametrize("slope", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("every", [1, 7])
def test_the_slope_of_a_curve_at_another_speed_is_known(slope, every):
    found = match(power_law(every=every), power_law(1 / slope, every=every), warmup=100)
    assert found.slope == pytest.approx(slope, rel=0.01)
    assert found.end_point_ratio == pytest.approx(slope, rel=0.01)
    assert found.window[0] > 100 and found.window[1] == pytest.approx(1000, abs=every)
    assert found.matched_share == 1.0


def test_a_straight_line_is_matched_exactly():
    line = [(t, 10.0 - t) for t in range(1, 10)]
    twice = [(t, 10.0 - 2 * t) for t in range(1, 10)]
    found = match(line, twice, warmup=1)  # before its first logged step nothing can be reached
    assert found.slope == pytest.approx(0.5, rel=1e-12)
    assert found.points[3] == (5.0, pytest.approx(2.5, rel=1e-12))


def test_a_slower_run_is_matched_as_far_as_it_came():
    found = match(power_law(), power_law(0.5), warmup=100)
    assert found.slope == pytest.approx(2.0, rel=0.01)
    assert found.window[1] == pytest.approx(500, abs=1)
    assert found.matched_share == pytest.approx(400 / 900, rel=0.02)


def test_a_run_that_never_comes_so_low_matches_nothing():
    high = [(t, loss + 5) for t, loss in power_law()]
    assert match(power_law(), high, warmup=100) is None


def test_noise_moves_the_slope_little_once_it_is_smoothed():
    slopes = [match(power_law(seed=n), power_law(4, seed=n + 100), 100, 50).slope for n in range(8)]
    assert np.mean(slopes) == pytest.approx(0.25, abs=0.04)


def test_the_regression_goes_through_the_origin():
    """Matched steps t / 2 + 10: least squares through the origin gives sum t s / sum t^2, not the line's own 1 / 2."""
    reference = [(t, 100.0 - t) for t in range(1, 101)]
    other = [(t / 2 + 10, 100.0 - t) for t in range(1, 101)]
    t = np.arange(1.0, 101)
    assert match(reference, other).slope == pytest.approx((t * (t / 2 + 10)).sum() / (t * t).sum())


def test_losses_that_rise_again_do_not_undo_what_was_reached():
    _, losses = monotone([(1, 3.0), (2, 1.0), (3, 2.0), (4, 0.5)])
    assert losses.tolist() == [3.0, 1.0, 1.0, 0.5]
    at = first_reached(np.array([1.0, 2, 3, 4]), losses, np.array([3.5, 2.0, 1.0, 0.75, 0.4]))
    assert at[:4].tolist() == [1.0, 1.5, 2.0, 3.5] and np.isnan(at[4])


def test_smoothing_keeps_a_straight_line_and_the_mean_of_noise():
    line = np.linspace(5, 1, 40)
    np.testing.assert_allclose(smooth(line, 9), line)
    noise = np.random.default_rng(0).standard_normal(4000)
    assert smooth(noise, 25)[50:-50].std() == pytest.approx(0.2, rel=0.1)


def test_too_few_points_are_refused():
    with pytest.raises(InputError, match="the other run has 1 logged losses"):
        match(power_law(), [(1, 2.0)])
