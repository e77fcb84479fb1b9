"""Mean flows: targets against a flow that is known in closed form, forward mode through the model, what is drawn."""

from dataclasses import replace

import pytest
import torch
from known_flow import MEANS, SPREAD, mixture_step, mixture_velocity, self_taught
from tiny import TEXT, generator, model, picture, words

from mot_gen.errors import InputError
from mot_gen.flops import forward_flops
from mot_gen.objectives.forward_mode import derivative
from mot_gen.objectives.mean_flow import Objective
from mot_gen.packing import pack
from mot_gen.sequence import Latents, Modality

IMAGE = Modality("image", channels=4, bidirectional=True, objective="mean_flow")


def latents_of(values, time, step):
    n = len(time)
    return Latents(
        values=values,
        slots=torch.arange(n),
        span=torch.arange(n),
        learned=torch.ones(n, dtype=torch.bool),
        leads=torch.zeros(n, dtype=torch.bool),
        time=time,
        step=step,
    )


# ---------------------------------------------------------------- the target


def points(count=200, seed=0):
    g = generator(seed)
    time = 0.1 + 0.9 * torch.rand(count, generator=g, dtype=torch.float64)
    step = time * torch.rand(count, generator=g, dtype=torch.float64)
    component = torch.randint(3, (count,), generator=g)
    data = MEANS[component] + SPREAD * torch.randn(count, generator=g, dtype=torch.float64)
    values = torch.lerp(data, torch.randn(count, generator=g, dtype=torch.float64), time)
    return values, time, step


def exact(values, time, step):
    """The mean velocity of the mixture's flow, differentiable in forward mode: Runge-Kutta over [t - d, t]."""
    return mixture_step(values[:, 0], time, step, pieces=40)[:, None]


def test_the_flows_own_mean_velocity_is_its_own_target():
    """u = v - d du/dt holds for the mean velocity of a flow that is known, given its velocity v."""
    values, time, step = points()
    velocity = mixture_velocity(values, time)[:, None]
    target = Objective().teach(latents_of(values[:, None], time, step), velocity, exact)
    torch.testing.assert_close(target, exact(values[:, None], time, step), atol=1e-3, rtol=1e-3)


def test_without_a_step_the_target_is_the_flows():
    values, time, _ = points(50)
    velocity = torch.randn(50, 1, dtype=torch.float64)
    latents = latents_of(values[:, None], time, torch.zeros(50, dtype=torch.float64))
    found = Objective().teach(latents, velocity, lambda x, t, d: (x * t[:, None]).sin() + d[:, None])
    assert torch.equal(found, velocity)


def test_two_half_steps_lead_where_one_does():
    """Of the flow's own mean velocities, which the target holds the network to."""
    values, time, step = points(100)
    whole = values - step * exact(values[:, None], time, step)[:, 0]
    half = values - step / 2 * exact(values[:, None], time, step / 2)[:, 0]
    half = half - step / 2 * exact(half[:, None], time - step / 2, step / 2)[:, 0]
    torch.testing.assert_close(half, whole, atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------- forward mode through the model


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"backbone": {"kind": "dense"}},
        {"backbone": {"widths": {"image": 16}}},
        {"patch_layers": {"image": {"kind": "unet", "width": 8}}},
    ],
    ids=["mot", "dense", "uneven", "unet"],
)
def test_forward_mode_passes_through_the_model(config):
    """Against central differences, in the direction of the velocity and of time."""
    network = model([TEXT, IMAGE], **config)
    batch = pack([[words(3), picture(2, 2)], [words(4, 2), picture(2, 3, 1)]], network.modalities, 24)
    latents = batch.latents["image"]

    def said(values, time, step):
        given = replace(latents, values=values, time=time, step=step)
        return network(replace(batch, latents={"image": given})).latents["image"]

    inputs = (latents.values, torch.tensor([0.7, 0.4]), torch.tensor([0.3, 0.2]))
    tangents = (torch.randn_like(latents.values), torch.ones(2), torch.ones(2))
    value, slope = derivative(said, inputs, tangents)
    h = 3e-3
    ahead, behind = (said(*(x + s * h * t for x, t in zip(inputs, tangents))) for s in (1, -1))
    torch.testing.assert_close(value, said(*inputs))
    torch.testing.assert_close(slope, (ahead - behind).detach() / (2 * h), atol=5e-3, rtol=5e-3)
    assert not slope.requires_grad and slope.abs().max() > 0.1


def along(network, batch, values, time, step, tangents):
    """The derivative of what the model says of a batch's pictures."""
    latents = batch.latents["image"]

    def said(values, time, step):
        given = replace(latents, values=values, time=time, step=step)
        return network(replace(batch, latents={"image": given})).latents["image"]

    return derivative(said, (values, time, step), tangents)[1]


def test_a_derivative_does_not_depend_on_packing_nor_much_on_precision():
    network = model([TEXT, IMAGE])
    documents = [[words(4, 2), picture(2, 3, 1)], [words(3), picture(2, 2)]]
    together = pack(documents, network.modalities, 32)
    values, time, step = together.latents["image"].values, torch.tensor([0.7, 0.4]), torch.tensor([0.3, 0.2])
    tangents = (torch.randn_like(values), torch.ones(2), torch.ones(2))
    whole = along(network, together, values, time, step, tangents)
    for n, (document, tokens) in enumerate(zip(documents, (slice(0, 6), slice(6, 10)))):
        one = (tangents[0][tokens], torch.ones(1), torch.ones(1))
        batch = pack([document], network.modalities, 16)
        alone = along(network, batch, values[tokens], time[n : n + 1], step[n : n + 1], one)
        torch.testing.assert_close(alone, whole[tokens], atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        half = along(network, together, values, time, step, tangents)
    assert (half - whole).norm() < 0.05 * whole.norm()


def test_what_has_no_forward_mode_is_named():
    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    with pytest.raises(InputError, match="mean_flow: a part of this model has no forward-mode derivative"):
        derivative(Odd.apply, (torch.ones(2),), (torch.ones(2),))


def test_training_takes_the_targets_where_a_step_is_learned():
    network = model([TEXT, IMAGE], objectives={"image": {"share": 0.5}})
    batch = pack([[words(3, i), picture(2, 2, i)] for i in range(8)], network.modalities, 12)
    noisy, targets = network.corrupt(batch, generator(0), tokens=True)
    made, flops = self_taught(network, noisy, targets)
    latents = noisy.latents["image"]
    steps = latents.per_token(latents.step)
    assert 0 < (latents.step > 0).sum() <= 4
    rows = (latents.slots[steps > 0] // 12).unique()
    assert flops == 2 * forward_flops(network, noisy.select_rows(rows))  # the values and their derivative
    assert torch.equal(made["image"][steps == 0], targets["image"][steps == 0])
    assert (made["image"][steps > 0] != targets["image"][steps > 0]).any(1).all()


def test_steps_lie_within_the_path_and_below_the_cap():
    n = 4000
    latents = latents_of(torch.zeros(n, 1), torch.zeros(n), torch.zeros(n))
    latents.leads = torch.arange(n) % 2 == 0
    objective = Objective(cap=0.5)
    time = objective.sample_time(latents, generator(0))
    chosen = torch.arange(n) % 4 < 2
    begin, step = objective.sample_steps(latents, time, chosen, generator(1))
    assert torch.equal(begin[~chosen], time[~chosen]) and not step[~chosen].any()
    assert (step[chosen] > 0).all() and (begin - step >= 0).all() and begin[::2].max() <= 0.5


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_sampler_tells_the_size_of_its_steps(steps):
    objective, scheduler = Objective(), Objective().scheduler()
    scheduler.set_timesteps(steps)
    told = [objective.step_size(timestep, scheduler).item() for timestep in scheduler.timesteps]
    assert told == pytest.approx([1 / steps] * steps)


def test_one_evaluation_with_the_mean_velocity_is_the_flow():
    """From noise, by the sampler's own step: the samples of the mixture that the flow leads to."""
    noise = torch.randn(50, 1, generator=generator(3), dtype=torch.float64)
    ones = torch.ones(50, dtype=torch.float64)
    scheduler = Objective().scheduler()
    scheduler.set_timesteps(1)
    drawn = scheduler.step(exact(noise, ones, ones), scheduler.timesteps[0], noise).prev_sample
    fine = noise[:, 0]
    for k in range(64):
        at = ones * (1 - k / 64)
        fine = fine - mixture_step(fine, at, ones / 64, pieces=20) / 64
    torch.testing.assert_close(drawn[:, 0].double(), fine, atol=5e-3, rtol=5e-3)


def test_times_are_embedded_slowly_unless_asked_otherwise():
    assert model([TEXT, IMAGE]).patch_layers["image"].time.scale == 10.0
    asked = model([TEXT, IMAGE], objectives={"image": {"time_scale": 3.0}})
    assert asked.patch_layers["image"].step.scale == 3.0
    stated = model([TEXT, IMAGE], patch_layers={"image": {"time_scale": 7.0}})
    assert stated.patch_layers["image"].time.scale == 7.0


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"prediction": "sample"}, "mean_flow.prediction must be 'velocity', got 'sample'"),
        ({"share": 2}, r"mean_flow.share must be in \[0, 1\]"),
        ({"time_scale": 0}, "mean_flow.time_scale must be in"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(InputError, match=complaint):
        Objective(**options)
