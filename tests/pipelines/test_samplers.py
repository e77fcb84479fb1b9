"""Samplers: exact on constant velocities, of their stated order, right on a Gaussian; guidance; generators; noise."""

import math

import diffusers
import pytest
import torch
from tiny import generator

from mot_gen.errors import InputError
from mot_gen.objectives import load
from mot_gen.pipelines.engine.guidance import Guidance
from mot_gen.pipelines.engine.samplers import Schedule, integrate, noise, row_generators

FLOWS = [diffusers.FlowMatchEulerDiscreteScheduler, diffusers.FlowMatchHeunDiscreteScheduler]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


@pytest.mark.parametrize("scheduler", FLOWS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_constant_velocity_is_integrated_exactly(scheduler, steps):
    start, velocity = random(2, 3, 4), random(2, 3, 4, seed=1)
    end = integrate(lambda x, t: velocity, start, Schedule(scheduler(), steps))
    torch.testing.assert_close(end, start - velocity, atol=2e-4, rtol=1e-5)  # Heun's sigmas are rounded to fp32


def error_on_a_linear_ode(scheduler, steps):
    """Of dx / dt = a x from t = 1 to 0, x(0) = x(1) exp(-a), in fp64."""
    start = torch.ones(1, 1, 1, dtype=torch.float64)
    # Steps of equal size end at t = 0: the schedule's own last step, from 0.001, is not of the others' size.
    end = integrate(lambda x, t: 1.5 * x.double(), start, Schedule(scheduler(num_train_timesteps=1_000_000), steps))
    return abs(end.item() - math.exp(-1.5))


@pytest.mark.parametrize("scheduler, order", [(FLOWS[0], 1), (FLOWS[1], 2)], ids=["Euler", "Heun"])
def test_a_flow_sampler_has_its_order(scheduler, order):
    coarse, fine = (error_on_a_linear_ode(scheduler, steps) for steps in (9, 17))  # 8 and 16 equal steps
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


MEAN, SPREAD = 0.7, 0.5


def exact_gaussian(scheduler):
    """The optimal epsilon for data N(MEAN, SPREAD^2), and the closed form of the probability flow from the first step.

    With x_k = a x + b eps, E[eps | x_k] = b (x_k - a MEAN) / (a^2 SPREAD^2 + b^2), and every path keeps its quantile.
    """

    def scales(timestep):
        signal = scheduler.alphas_cumprod[int(timestep)].double()
        return signal.sqrt(), (1 - signal).sqrt()

    def predict(x, timestep):
        a, b = scales(timestep)
        return b * (x - a * MEAN) / (a**2 * SPREAD**2 + b**2)

    def end_of(start):
        a, b = scales(scheduler.timesteps[0])
        return MEAN + SPREAD * (start - a * MEAN) / (a**2 * SPREAD**2 + b**2).sqrt()

    return predict, end_of


@pytest.mark.parametrize(
    "name, steps, tolerance",
    [("DDIMScheduler", 50, 0.1), ("DDIMScheduler", 200, 0.025), ("DPMSolverMultistepScheduler", 50, 0.004)],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_diffusion_samplers_follow_a_gaussian(name, steps, tolerance):
    objective = load("diffusion", {"schedule": "linear"})
    scheduler = getattr(diffusers, name).from_config(objective.scheduler().config, timestep_spacing="trailing")
    assert objective.fits(scheduler) is None
    start, (predict, end_of) = random(1, 50, 2, dtype=torch.float64), exact_gaussian(scheduler)
    end = integrate(predict, start, Schedule(scheduler, steps))
    torch.testing.assert_close(end, end_of(start), atol=tolerance, rtol=0)


def test_ancestral_sampling_has_the_datas_moments():
    """DDPM adds noise at every step, each sample from its own generator."""
    objective = load("diffusion", {"schedule": "linear", "steps": 1000})
    scheduler, start = objective.scheduler(), random(4, 2000, 1)
    predict, _ = exact_gaussian(scheduler)
    end = integrate(
        lambda x, t: predict(x, t).float(), start, Schedule(scheduler, 200), [generator(seed) for seed in range(4)]
    )
    assert end.mean().item() == pytest.approx(MEAN, abs=0.02) and end.std().item() == pytest.approx(SPREAD, abs=0.02)
    alone = integrate(
        lambda x, t: predict(x, t).float(), start[2:3], Schedule(objective.scheduler(), 200), [generator(2)]
    )
    torch.testing.assert_close(alone, end[2:3])


def test_every_step_is_shown_and_may_be_changed():
    seen = []

    def on_step(step):
        seen.append((step.number, step.timestep.item()))
        return torch.zeros_like(step.x) if step.number == 2 else step.x

    end = integrate(lambda x, t: torch.zeros_like(x), random(1, 2, 2), Schedule(FLOWS[0](), 3), on_step=on_step)
    assert [number for number, _ in seen] == [0, 1, 2] and seen[0][1] > seen[1][1] > seen[2][1]
    assert not end.any()


def test_guidance_is_a_line_through_its_ends():
    conditional, unconditional = random(3, 2), random(3, 2, seed=1)
    both = torch.cat([conditional, unconditional])
    for scale in (0.5, 3.0):
        guidance = Guidance(scale)
        assert guidance.branches == ("conditional", "unconditional")
        torch.testing.assert_close(guidance.combine(both), unconditional + scale * (conditional - unconditional))
    assert Guidance(1.0).branches == ("conditional",) and Guidance(0.0).branches == ("unconditional",)
    assert Guidance(1.0).combine(conditional) is conditional


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_guidance_is_a_finite_number(scale):
    with pytest.raises(InputError, match=r"guidance_scale must be a number of at least 0 \(1 = off\), got"):
        Guidance(scale)


def test_one_generator_seeds_one_a_sample():
    first, again = row_generators(generator(7), 3), row_generators(generator(7), 3)
    drawn = [torch.rand(2, generator=g) for g in first]
    assert all(torch.equal(d, torch.rand(2, generator=g)) for d, g in zip(drawn, again))
    assert len({tuple(d.tolist()) for d in drawn}) == 3
    own = [generator(1), generator(2)]
    assert row_generators(own, 2) == own and row_generators(None, 2) is None
    with pytest.raises(InputError, match="2 generators were given for 3 samples"):
        row_generators(own, 3)


def test_one_generator_draws_the_first_sample_itself():
    """So generator=G(7), [G(7)] and the place of G(7) in a list give one sample, whatever else is in the batch."""
    alone = torch.rand(2, generator=generator(7))
    for rows in (row_generators(generator(7), 1), row_generators(generator(7), 3), row_generators([generator(7)], 1)):
        assert torch.equal(torch.rand(2, generator=rows[0]), alone)
    used = generator(7)
    first = torch.rand(2, generator=row_generators(used, 1)[0])
    assert not torch.equal(first, torch.rand(2, generator=row_generators(used, 1)[0]))


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_a_scheduler_whose_arithmetic_fails_is_named(name):
    """diffusers' own: in four steps of the cosine schedule it takes the root of -2e-7."""
    base = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    config = dict(base.config)
    del config["timestep_spacing"]
    scheduler = getattr(diffusers, name).from_config(config)
    with pytest.raises(InputError, match=f"{name} gave NaN or infinity in 4 steps; take another"):
        integrate(lambda x, t: torch.zeros_like(x), random(1, 2, 2), Schedule(scheduler, 4), [generator(0)])


def test_noise_of_a_sample_does_not_depend_on_its_neighbours():
    shapes = [(3, 4), (5, 4)]
    both = noise(shapes, [generator(1), generator(2)], "cpu", torch.float32)
    (alone,) = noise(shapes[1:], [generator(2)], "cpu", torch.float32)
    assert torch.equal(both[1], alone) and both[0].shape == (3, 4)
