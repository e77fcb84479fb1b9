"""Advantages, ratios, penalties, likelihoods and preference losses against formulas written by hand, and the stochastic
sampler of flows against the deterministic one."""

import math
from itertools import pairwise

import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.objectives.flow import Objective as Flow
from mot_gen.reinforce.advantages import advantages, equal_rows
from mot_gen.reinforce.dpo import diffusion_margin, preference_loss, token_margin
from mot_gen.reinforce.flow_grpo import StochasticFlow, gaussian_kl, log_prob
from mot_gen.reinforce.grpo import clipped_loss, k3, token_log_probs, was_clipped
from mot_gen.reinforce.metric_rewards import metric_reward
from mot_gen.reinforce.nft import goodness, nft_loss
from mot_gen.reinforce.unigrpo import velocity_penalty

NAN = float("nan")


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_advantages_are_deviations_within_the_group():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    deviation = math.sqrt((4 + 1 + 9) / 2)
    expected = torch.tensor([[-2.0, -1.0, 3.0]]) / (deviation + 1e-4)
    assert torch.allclose(advantages(rewards)[:1], expected, atol=1e-6)
    assert torch.equal(advantages(rewards)[1], torch.zeros(3))
    assert torch.allclose(advantages(rewards, divide=False)[0], torch.tensor([-2.0, -1.0, 3.0]), atol=1e-6)


def test_a_sample_without_a_reward_changes_nothing_for_the_others():
    found = advantages(torch.tensor([[1.0, NAN, 2.0, 6.0], [NAN, NAN, NAN, 5.0]]))
    assert torch.allclose(found[0, [0, 2, 3]], advantages(torch.tensor([[1.0, 2.0, 6.0]]))[0])
    assert found[0, 1] == 0 and torch.equal(found[1], torch.zeros(4))


def test_groups_that_teach_nothing_are_counted():
    rewards = torch.tensor([[1.0, 1.0], [1.0, 2.0], [NAN, 3.0], [NAN, NAN]])
    assert equal_rows(rewards).tolist() == [True, False, True, True]


def test_the_clipped_loss_and_where_it_has_no_gradient():
    ratio = numbers(0.5, 0.9, 1.0, 1.1, 2.0, 0.5, 2.0).requires_grad_()
    gain = numbers(1, 1, 1, 1, 1, -2, -2)
    loss = clipped_loss(ratio.log(), gain, 0.2)
    assert torch.allclose(loss, numbers(-0.5, -0.9, -1, -1.1, -1.2, 1.6, 4), atol=1e-6)
    loss.sum().backward()
    assert torch.allclose(ratio.grad, numbers(-1, -1, -1, -1, 0, 0, 2), atol=1e-6)
    assert was_clipped(ratio.log(), gain, 0.2).tolist() == [False] * 4 + [True, True, False]
    higher = clipped_loss(numbers(2.0).log(), numbers(1.0), 0.2, clip_high=0.5)
    assert higher.item() == pytest.approx(-1.5, abs=1e-6)


def test_the_first_update_has_ratio_one_and_no_advantage_moves_nothing():
    log_prob_now = numbers(-1.0, -2.0).requires_grad_()
    loss = clipped_loss(log_prob_now - log_prob_now.detach(), numbers(3.0, -1.0), 0.2)
    assert torch.equal(loss, numbers(-3.0, 1.0))
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob_now)
    assert torch.equal(gradient, numbers(-3.0, 1.0))
    loss = clipped_loss(log_prob_now - log_prob_now.detach(), numbers(0.0, 0.0), 0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob_now)
    assert not gradient.any()


def test_k3_is_the_divergence_on_average():
    now, reference = numbers(0.2, 0.5, 0.3), numbers(0.4, 0.4, 0.2)
    exact = (now * (now / reference).log()).sum()
    assert (now * k3(now.log(), reference.log())).sum().item() == pytest.approx(exact.item(), abs=1e-6)
    assert k3(numbers(-1.5), numbers(-1.0)).item() == pytest.approx(math.exp(0.5) - 0.5 - 1, abs=1e-6)


def test_token_log_probabilities_are_those_of_the_sampler():
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]])
    forbidden = torch.tensor([[False, False, True], [False, False, False]])
    found = token_log_probs(logits, torch.tensor([1, 0]), forbidden, temperature=2.0)
    first = 1.0 - math.log(math.exp(0.5) + math.exp(1.0))
    second = 0.0 - math.log(2 + math.exp(2.5))
    assert found.tolist() == pytest.approx([first, second], abs=1e-6)


def test_densities_and_divergence_of_gaussians():
    x, mean, std = numbers(0.3, -0.2)[None], numbers(0.1, 0.4)[None], numbers(0.5)[None]
    expected = torch.distributions.Normal(mean, std).log_prob(x).sum(-1)
    assert torch.allclose(log_prob(x, mean, std), expected, atol=1e-9)
    other = numbers(0.0, 0.0)[None]
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, std), normal(other, std)).sum(-1)
    assert torch.allclose(gaussian_kl(mean, other, std), divergence, atol=1e-9)
    assert velocity_penalty(mean, other).item() == pytest.approx((0.01 + 0.16) / 2)


def test_preference_losses_are_their_formulas():
    chosen, rejected = numbers(-3.0), numbers(-2.0)
    found = preference_loss(token_margin(chosen, rejected, numbers(-4.0), numbers(-2.5), beta=0.3))
    assert found.item() == pytest.approx(math.log(1 + math.exp(-0.3 * (1.0 - 0.5))), abs=1e-6)
    found = preference_loss(diffusion_margin(numbers(0.2), numbers(0.5), numbers(0.3), numbers(0.4), beta=20.0))
    assert found.item() == pytest.approx(math.log(1 + math.exp(20 * (-0.1 - 0.1))), abs=1e-6)
    assert preference_loss(token_margin(chosen, rejected, chosen, rejected, 0.1)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exact_match", [1.0, 0.0, 0.0]),
        ("token_f1", [1.0, 0.5, 0.0]),  # of words without their article
        ("wer", [0.0, -1 / 3, -1.0]),  # less is better, and the nearest reference counts
        ("rouge1", [1.0, 2 / 3, 0.0]),
    ],
)
def test_metrics_that_score_one_sample_are_rewards(name, expected):
    reward = metric_reward("here", name, {}, [])
    texts = ["the digit two", "the digit one", "4"]
    references = [["the digit two"], ["5", "the digit two"], ["a"]]
    assert reward(texts, references) == pytest.approx(expected)


def test_metrics_of_sets_are_no_rewards():
    with pytest.raises(InputError, match=r"here: 'cider-d' is not a reward"):
        metric_reward("here", "cider-d", {}, [])


# ---------------------------------------------------------------- the sampler

MEAN, STD = 0.7, 0.4  # of the data


def velocity(x, time):
    """The exact velocity where the data are normal: E[e - x_0 | x_t]."""
    variance = (1 - time) ** 2 * STD**2 + time**2
    return (time - (1 - time) * STD**2) / variance * (x - (1 - time) * MEAN) - MEAN


def moments(flow, steps):
    """Mean and deviation of what the sampler gives: every step is affine in x and Gaussian, so they are exact."""
    times, mean, variance = flow.times(steps).double(), torch.tensor(0.0).double(), torch.tensor(1.0).double()
    for time, after in pairwise(times):
        points = torch.tensor([0.0, 1.0], dtype=torch.float64)
        (at_zero, at_one), std = flow.step_of(points, velocity(points, time), time, after, times[1])
        slope = at_one - at_zero
        mean, variance = at_zero + slope * mean, slope**2 * variance + std**2
    return mean.item(), variance.sqrt().item()


def deterministic(steps):
    """The same of Euler's method."""
    times, mean, std = torch.linspace(1, 0, steps + 1).double(), 0.0, 1.0
    for time, after in pairwise(times):
        at_zero, at_one = (float(x + velocity(x, time) * (after - time)) for x in (0.0, 1.0))
        mean, std = at_zero + (at_one - at_zero) * mean, std * abs(at_one - at_zero)
    return mean, std


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_stochastic_sampler_ends_in_the_distribution_of_the_deterministic_one(shift):
    found, expected = moments(StochasticFlow("sde", 0.7, shift), 1000), deterministic(1000)
    assert expected == pytest.approx((MEAN, STD), abs=2e-3)
    assert found == pytest.approx(expected, abs=1e-2)


def test_coefficients_are_preserved():
    """Signal and noise of x' have the coefficients 1 - t' and t', whatever share of the noise is new; so a model that
    knows the picture draws exactly it, and a step of no noise is the deterministic one."""
    clean, noise = torch.randn(2, 500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time, after = torch.tensor(0.8).double(), torch.tensor(0.6).double()
    noisy = (1 - time) * clean + time * noise
    mean, std = StochasticFlow("cps", 0.7).step_of(noisy, noise - clean, time, after, time)
    kept = (mean - (1 - after) * clean) / noise
    assert torch.allclose(kept**2 + std**2, after**2 * torch.ones_like(kept))
    last, std = StochasticFlow("cps", 0.7).step_of(noisy, noise - clean, time, torch.tensor(0.0), time)
    assert torch.allclose(last, clean) and std == 0
    mean, _ = StochasticFlow("cps", 1e-9).step_of(noisy, noise - clean, time, after, time)
    assert torch.allclose(mean, noisy + (noise - clean) * (after - time))


@pytest.mark.parametrize(("kind", "noise"), [("sde", 0.0), ("cps", 0.0), ("cps", 1.5), ("ode", 0.7)])
def test_a_sampler_without_noise_is_refused(kind, noise):
    with pytest.raises(InputError, match=r"reinforce\.(noise|sampler)"):
        StochasticFlow(kind, noise)


# ---------------------------------------------------------------- DiffusionNFT


def test_goodness_is_a_half_for_what_is_as_good_as_its_group():
    found = goodness(torch.tensor([[0.0, 0.5, -0.25, 3.0, -2.0]]))
    assert torch.equal(found, torch.tensor([[0.5, 0.75, 0.375, 1.0, 0.0]]))


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_nft_moves_from_the_old_model_by_two_over_beta_towards_what_is_good(beta):
    """Theorem 3.1 of the paper, at one x_t: the least loss is at v_old + (2 / beta) alpha (v_good - v_old), with v_old
    the mean target, alpha the mean r, and v_good the mean target weighted by r."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    good = torch.rand(64, generator=generator, dtype=torch.float64)
    old, alpha = target.mean(0), good.mean()
    of_good = (good[:, None] * target).sum(0) / good.sum()
    least = (old + 2 / beta * alpha * (of_good - old)).requires_grad_()
    time = torch.full((64,), 0.3)
    losses = nft_loss(Flow(), least.expand(64, 3), old.expand(64, 3), target, time, good, beta)
    (gradient,) = torch.autograd.grad(losses.mean(), least)
    assert gradient.abs().max() < 1e-6 < (least - old).abs().max()


def test_nft_moves_nothing_where_nothing_is_better():
    now = torch.randn(5, 3).requires_grad_()
    half, time = torch.full((5,), 0.5), torch.full((5,), 0.3)
    losses = nft_loss(Flow(), now, now.detach(), torch.randn(5, 3), time, half, beta=1.0)
    (gradient,) = torch.autograd.grad(losses.sum(), now)
    assert torch.equal(gradient, torch.zeros(5, 3))
