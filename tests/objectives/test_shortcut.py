"""Shortcut models: targets against a flow that is known in closed form, what training draws, what sampling says."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from known_flow import mixture_step, mixture_velocity, self_taught
from tiny import IMAGE, MODALITIES, TEXT, generator, mixed, model, picture, words

from mot_gen.errors import InputError
from mot_gen.objectives import load
from mot_gen.objectives.even_steps import EvenStepsScheduler
from mot_gen.objectives.shortcut import Objective
from mot_gen.packing import pack
from mot_gen.recipes.recipe import load_recipe
from mot_gen.sequence import Latents, Modality
from mot_gen.training.build import build_model, build_tokenizers, load_splits


def noised(time, step, prediction="velocity"):
    """One token a span at these times, of the mixture, and what `predict` says: the exact mean velocity."""
    n = len(time)
    values = torch.randn(n, 1, generator=generator(0), dtype=torch.float64)
    held = torch.ones(n, dtype=torch.bool)
    index = torch.arange(n)
    latents = Latents(values, index, index, held, ~held, [(1, 1)] * n, time.double(), step.double())

    def predict(values, time, told):
        velocity = mixture_step(values[:, 0], time.double(), told.double())[:, None]
        return velocity if prediction == "velocity" else values - time[:, None] * velocity

    return latents, predict


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_two_half_steps_are_one(prediction):
    """With the exact flow as its own teacher, the target of every step is the exact mean velocity of that step."""
    objective = Objective(finest=256, prediction=prediction, min_time=1 / 256)
    step = torch.tensor(objective.steps[1:]).repeat_interleave(8)
    begin = step * (1 + torch.floor(torch.rand(len(step), generator=generator(1)) / step))
    latents, predict = noised(begin, step, prediction)
    target = objective.teach(latents, None, predict)
    exact = mixture_step(latents.values[:, 0], latents.time, latents.step)[:, None]
    if prediction == "sample":
        exact = latents.values - latents.time[:, None] * exact
    torch.testing.assert_close(target, exact, atol=1e-3, rtol=0)


def test_small_steps_are_the_flow():
    """d -> 0: the target of the finest step nears the flow's velocity, with an error that is linear in d."""
    worst = []
    for finest in (4096, 16384):
        objective = Objective(finest=finest)
        step = torch.full((40,), objective.steps[0])
        latents, predict = noised(torch.linspace(0.1, 0.95, 40), step)
        difference = objective.teach(latents, None, predict)[:, 0] - mixture_velocity(
            latents.values[:, 0], latents.time
        )
        worst.append(difference.abs().max().item())
    assert worst[1] < 1e-3 < 2e-2 and worst[0] / worst[1] == pytest.approx(4, rel=0.2)


def test_the_finest_steps_are_taken_by_the_flow():
    objective, told = Objective(finest=8), []
    latents, _ = noised(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.25, 0.5, 1.0]))
    objective.teach(latents, None, lambda values, time, step: told.append((time.tolist(), step.tolist())) or values)
    assert told == [([1, 1, 1], [0, 0.25, 0.5]), ([0.875, 0.75, 0.5], [0, 0.25, 0.5])]


def test_steps_begin_at_their_multiples_and_below_the_cap_before_text():
    objective = Objective(finest=16, cap=0.5)
    n = 6000
    index = torch.arange(n)
    latents = Latents(torch.zeros(n, 1), index, index, index % 10 != 9, index % 3 == 0, [(1, 1)] * n)
    time = objective.sample_time(latents, generator(0))
    chosen = index % 2 == 0
    begin, step = objective.sample_steps(latents, time, chosen, generator(1))
    assert torch.equal(begin[~chosen], time[~chosen]) and not step[~chosen].any() and not step[~latents.learned].any()
    taught = step > 0
    assert set(step[taught].tolist()) == set(objective.steps) == {0.125, 0.25, 0.5, 1.0}
    assert torch.equal(begin[taught] % step[taught], torch.zeros(int(taught.sum())))
    assert (begin - step)[taught].min() == 0 and begin.max() == 1
    assert begin[latents.leads].max() <= 0.5 and step[latents.leads].max() == 0.5
    free = taught & ~latents.leads
    counts = torch.stack([(step[free] == size).sum() for size in objective.steps])
    assert (counts - free.sum() / 4).abs().max() < 0.1 * free.sum()


def few_steps(**options):
    image = Modality("image", channels=4, bidirectional=True, objective="shortcut")
    return model([TEXT, image], objectives={"image": options})


def test_a_batch_learns_the_flow_and_in_some_rows_steps():
    net = few_steps(share=0.5)
    batch = pack([[words(5, i), picture(2, 3, i)] for i in range(8)], net.modalities, 16)
    noisy, flow = net.corrupt(batch, generator(0), tokens=True)
    latents = noisy.latents["image"]
    assert (latents.step > 0).sum() == 4
    targets, flops = self_taught(net, noisy, flow)
    steps = latents.per_token(latents.step)
    assert torch.equal(targets["image"][steps == 0], flow["image"][steps == 0])
    assert not torch.isclose(targets["image"][steps > 0], flow["image"][steps > 0]).all(1).any()
    assert flops > 0
    held_out, _ = net.corrupt(batch, generator(0))
    assert held_out.latents["image"].step is None


def test_targets_do_not_depend_on_packing():
    """The two halves of a step, taken in some rows alone, are what the whole batch would give."""
    net = few_steps(share=0.5, finest=4)
    batch = pack([[words(4, i), picture(2, 2, i)] for i in range(6)], net.modalities, 32)
    noisy, flow = net.corrupt(batch, generator(1), tokens=True)
    targets, _ = self_taught(net, noisy, flow)
    latents, objective = noisy.latents["image"], net.objectives["image"]

    def predict(values, time, step):
        given = replace(noisy, latents={"image": replace(latents, values=values, time=time, step=step)})
        return net(given).latents["image"]

    steps = latents.per_token(latents.step)
    whole = objective.teach(latents, None, predict)[steps > 0]
    torch.testing.assert_close(targets["image"][steps > 0], whole, atol=1e-5, rtol=1e-5)


def test_other_objectives_have_nothing_to_teach():
    net = model(MODALITIES)
    noisy, targets = net.corrupt(pack(mixed(4), net.modalities, 64), generator(0), tokens=True)
    made, flops = self_taught(net, noisy, targets)
    assert made["image"] is targets["image"] and flops == 0


def test_a_new_model_takes_no_notice_of_the_step_and_learns_to():
    """The step's last layer is 0 at first, so that a flow model which begins to learn steps is still that flow."""
    net = model([TEXT, Modality("image", channels=4, bidirectional=True, objective="shortcut")], shaken=False)
    noisy, _ = net.corrupt(pack([[words(5), picture()]], net.modalities, 16), generator(0))
    hidden = []
    for size in (0.0, 1.0):
        latents = replace(noisy.latents["image"], step=torch.tensor([size]))
        hidden.append(net.embed(replace(noisy, latents={"image": latents}))[0])
    assert torch.equal(*hidden)
    hidden[1].square().sum().backward()
    assert net.patch_layers["image"].step.mlp[-1].weight.grad.any()
    plain = model([TEXT, IMAGE], shaken=False)
    assert {n for n, _ in net.named_parameters()} - {n for n, _ in plain.named_parameters()} == {
        f"patch_layers.image.step.mlp.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")
    }


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 20])
def test_sampling_takes_even_steps_and_says_their_size(count):
    objective = Objective(finest=16)
    scheduler = objective.scheduler()
    scheduler.set_timesteps(count)
    torch.testing.assert_close(scheduler.sigmas, torch.linspace(1, 0, count + 1))
    told = {objective.step_size(timestep, scheduler).item() for timestep in scheduler.timesteps}
    assert told == {{1: 1.0, 2: 0.5, 3: 0.25, 4: 0.25, 8: 0.125, 20: 0.0}[count]}


def test_sampling_a_known_flow_in_one_and_two_evaluations():
    """The exact mean velocities lead from noise to where the flow itself ends, in any number of steps."""
    objective, x = Objective(finest=64), torch.linspace(-2, 2, 9, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    exact = x - mixture_step(x, one, one, 400)
    for count in (1, 2, 8):
        scheduler, sample = objective.scheduler(), x
        scheduler.set_timesteps(count)
        for timestep in scheduler.timesteps:
            time = objective.scheduler_time(timestep, scheduler).double()
            velocity = mixture_step(sample, time, objective.step_size(timestep, scheduler).double(), 100)
            sample = scheduler.step(velocity, timestep, sample).prev_sample
        torch.testing.assert_close(sample, exact, atol=1e-3, rtol=0)


def test_a_scheduler_of_many_evaluations_takes_the_flow():
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(4)
    objective = Objective()
    assert objective.fits(scheduler) is None
    assert not any(objective.step_size(timestep, scheduler) for timestep in scheduler.timesteps)
    usual = FlowMatchEulerDiscreteScheduler()
    usual.set_timesteps(1)
    assert objective.step_size(usual.timesteps[0], usual) == 1


def test_the_scheduler_is_saved_and_loaded(tmp_path):
    EvenStepsScheduler(shift=1.0).save_pretrained(tmp_path)
    again = EvenStepsScheduler.from_pretrained(tmp_path)
    again.set_timesteps(2)
    assert again.sigmas.tolist() == [1, 0.5, 0]


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"finest": 48}, "shortcut.finest must be a power of two, got 48"),
        ({"fewest": 0}, "shortcut.fewest must be a power of two, got 0"),
        ({"finest": 4, "fewest": 4}, "fewest below finest, got 4 and 4"),
        ({"finest": 128, "prediction": "sample"}, "shortcut.min_time must be at most 1 / finest, got 0.01"),
        ({"share": math.nan}, "shortcut.share must be in"),
        ({"shfit": 1.0}, "did you mean 'shift'"),
        ({"time": "uniforn"}, "shortcut.time 'uniforn' is not known; did you mean 'uniform'"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(InputError, match=complaint):
        load("shortcut", options)


def test_a_flow_model_begins_to_learn_steps(tmp_path):
    """`training.init` takes a flow checkpoint: its weights stay, and only what embeds the step is drawn."""
    recipe = load_recipe("digits", ["backbone.dim=32", "backbone.layers=1", "backbone.ffn_dim=32"])
    tokenizers = build_tokenizers(recipe, load_splits(recipe))
    flow = build_model(recipe, tokenizers)
    flow.save_pretrained(tmp_path / "model")
    begun = [f"training.init={tmp_path / 'model'}", "objectives.image.kind=shortcut"]
    recipe = load_recipe("digits", ["backbone.dim=32", "backbone.layers=1", "backbone.ffn_dim=32", *begun])
    values = build_model(recipe, tokenizers).state_dict()
    for name, value in flow.state_dict().items():
        assert torch.equal(values.pop(name), value)
    assert all(".step." in name for name in values) and values["patch_layers.image.step.mlp.0.weight"].any()
    assert not values["patch_layers.image.step.mlp.2.weight"].any()
