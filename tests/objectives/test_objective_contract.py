"""What every objective promises (mot_gen.objectives), held for each file of the folder; each against its formula."""

import importlib
import pkgutil

import pytest
import torch
import torch.nn.functional as F
from tiny import generator

from mot_gen import objectives
from mot_gen.errors import InputError
from mot_gen.objectives import load
from mot_gen.objectives.flow import Objective as Flow
from mot_gen.sequence import Latents

# Every variant of a continuous objective: what it may be asked to predict.
VARIANTS = [
    ("flow", {"prediction": "velocity"}),
    ("flow", {"prediction": "sample"}),
    ("flow", {"prediction": "velocity", "time": "uniform", "shift": 3.0}),
    ("shortcut", {}),
    ("shortcut", {"prediction": "sample", "time": "uniform"}),
    ("mean_flow", {"time": "uniform"}),
    ("diffusion", {"prediction": "epsilon"}),
    ("diffusion", {"prediction": "v"}),
    ("diffusion", {"prediction": "sample", "schedule": "scaled_linear"}),
]


def kinds():
    """Every module with an `Objective`; the others are parts of some."""
    names = [module.name for module in pkgutil.iter_modules(objectives.__path__)]
    return [n for n in names if hasattr(importlib.import_module(f"mot_gen.objectives.{n}"), "Objective")]


def continuous_kinds():
    given = {kind for kind, _ in VARIANTS}
    new = [k for k in kinds() if k not in given and hasattr(load(k), "corrupt")]
    return VARIANTS + [(kind, {}) for kind in new]


every_continuous = pytest.mark.parametrize("kind, options", continuous_kinds(), ids=str)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def spans(counts, channels=4, learned=None, leads=None):
    """Latents of spans of these lengths."""
    n = len(counts)
    return Latents(
        values=random(sum(counts), channels),
        slots=torch.arange(sum(counts)),
        span=torch.arange(n).repeat_interleave(torch.tensor(counts)),
        learned=torch.ones(n, dtype=torch.bool) if learned is None else torch.tensor(learned),
        leads=torch.zeros(n, dtype=torch.bool) if leads is None else torch.tensor(leads),
        grids=[(1, c) for c in counts],
    )


def test_every_objective_is_found_by_its_name():
    assert set(objectives.NAMES) <= set(kinds())
    for kind in kinds():
        assert callable(load(kind).loss) and importlib.import_module(f"mot_gen.objectives.{kind}").__doc__


@every_continuous
def test_the_exact_target_gives_the_least_loss(kind, options):
    objective, time = load(kind, options), torch.linspace(0.001, 1, 50)
    _, target = objective.corrupt(random(50, 4), time, generator(1))
    assert not objective.loss(target, target, time).any()
    for seed in range(3):
        assert (objective.loss(target + 0.1 * random(50, 4, seed=seed), target, time) > 0).all()


@every_continuous
def test_noise_of_ones_own_is_added_as_in_training_and_taken_off_again(kind, options):
    """`add_noise` is what `corrupt` does, also with one time for a whole batch; `clean` undoes it, given the target."""
    objective, time, values = load(kind, options), torch.linspace(0.05, 0.9, 50), random(50, 4)
    noisy, target = objective.corrupt(values, time, generator(1))
    noise = torch.randn(values.shape, generator=generator(1))
    torch.testing.assert_close(objective.add_noise(values, noise, time), noisy)
    assert torch.equal(objective.add_noise(values, noise, torch.tensor(0.0)), values)
    for number in (0, 20, 49):
        now = time[number]
        batch = objective.add_noise(values[None], noise[None], now)
        torch.testing.assert_close(batch[0, number], noisy[number])
        said = objective.scheduler_output(target[None], batch, now)
        torch.testing.assert_close(objective.clean(said, batch, now)[0, number], values[number], atol=1e-4, rtol=1e-4)


@every_continuous
def test_a_zero_predictions_loss_does_not_depend_on_the_channels(kind, options):
    """At one time; a target's square is 1 a channel or a sum of such, whatever their number."""
    objective, found = load(kind, options), []
    for channels in (1, 4, 64):
        time = torch.full((2**17 // channels,), 0.6)
        _, target = objective.corrupt(random(len(time), channels), time, generator(1))
        found.append(objective.loss(torch.zeros_like(target), target, time).mean())
    torch.testing.assert_close(torch.stack(found), found[0].expand(3), atol=0, rtol=0.03)


@every_continuous
def test_loss_is_unreduced_and_averaged_over_channels(kind, options):
    objective, time = load(kind, options), torch.tensor([0.2, 0.7, 1.0])
    output, target = random(3, 5), random(3, 5, seed=1)
    whole = objective.loss(output, target, time)
    each = torch.stack([objective.loss(output[:, c : c + 1], target[:, c : c + 1], time) for c in range(5)])
    assert whole.shape == (3,)
    torch.testing.assert_close(whole, each.mean(0))
    assert objective.loss(output.bfloat16(), target, time).dtype == torch.float32


@every_continuous
@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_each_span_has_one_time(kind, options, count):
    """Also when the number of spans equals that of the channels, 4, where a wrong broadcast would pass unseen."""
    objective, latents = load(kind, options), spans([3] * count)
    time = objective.sample_time(latents, generator(0))
    assert time.shape == (count,) and ((time > 0) & (time <= 1)).all()
    nothing = torch.zeros_like(latents.values)
    noise, _ = objective.corrupt(nothing, torch.ones(3 * count), generator(1))
    noisy, _ = objective.corrupt(nothing, latents.per_token(time), generator(1))
    scale = (noisy / noise).view(count, -1)
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale))
    assert len(time.unique()) == len(scale[:, 0].unique()) == count


@every_continuous
def test_what_only_conditions_stays_clean(kind, options):
    objective = load(kind, options)
    latents = spans([2, 2, 2], learned=[True, False, True])
    time = objective.sample_time(latents, generator(0))
    assert time[1] == 0 and time[0] > 0 and time[2] > 0
    noisy, _ = objective.corrupt(latents.values, latents.per_token(time), generator(1))
    assert torch.equal(noisy[2:4], latents.values[2:4])


@every_continuous
def test_noise_before_learned_text_is_capped(kind, options):
    leads = [i % 2 == 0 for i in range(4000)]
    for cap in (0.5, 0.1, 1.0):
        time = load(kind, options | {"cap": cap}).sample_time(spans([1] * 4000, leads=leads), generator(0))
        assert 0.9 * cap < time[::2].max() <= cap and time[1::2].max() > 0.9


@every_continuous
def test_time_0_is_clean_and_time_1_is_noise(kind, options):
    objective, values = load(kind, options), random(4000, 4)
    clean, _ = objective.corrupt(values, torch.zeros(4000), generator(1))
    assert torch.equal(clean, values)
    noisy, _ = objective.corrupt(values, torch.ones(4000), generator(1))
    noise, _ = objective.corrupt(torch.zeros_like(values), torch.ones(4000), generator(1))
    signal = ((noisy - noise) / values).mean()
    assert signal.abs() < (0.1 if options.get("schedule") == "scaled_linear" else 1e-3)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


@every_continuous
def test_corruption_follows_the_generator(kind, options):
    objective, latents = load(kind, options), spans([3, 2])
    times = [objective.sample_time(latents, generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(times[0], times[1]) and not torch.equal(times[0], times[2])
    time = latents.per_token(times[0])
    a, b, c = (objective.corrupt(latents.values, time, generator(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


@every_continuous
def test_its_own_scheduler_fits_and_a_foreign_one_does_not(kind, options):
    import diffusers

    objective = load(kind, options)
    assert objective.fits(objective.scheduler()) is None
    foreign = diffusers.FlowMatchEulerDiscreteScheduler() if kind == "diffusion" else diffusers.DDIMScheduler()
    assert objective.fits(foreign)


@every_continuous
def test_the_scheduler_undoes_the_corruption(kind, options):
    """One step with the exact output, from any timestep to the end, gives the clean values back."""
    objective, scheduler = load(kind, options), load(kind, options).scheduler()
    values = random(1, 6, 4)
    scheduler.set_timesteps(20)
    for number in (3, 10, 19):
        timestep = scheduler.timesteps[number]
        time = objective.scheduler_time(timestep, scheduler)
        noisy, target = objective.corrupt(values[0], time.expand(6), generator(1))
        output = objective.scheduler_output(target[None], noisy[None], time)
        if kind in ("flow", "shortcut", "mean_flow"):
            found = noisy[None] - time * output
        else:
            found = scheduler.step(output, timestep, noisy[None], generator=generator(2)).pred_original_sample
        torch.testing.assert_close(found, values, atol=2e-3, rtol=2e-3)


# ---------------------------------------------------------------- diffusion


@pytest.mark.parametrize("schedule", ["cosine", "linear", "scaled_linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_diffusion_is_ddpm(schedule, prediction):
    """Against diffusers' add_noise and get_velocity; our time (k + 1) / steps is its timestep k."""
    objective = load("diffusion", {"schedule": schedule, "prediction": prediction})
    scheduler, values = objective.scheduler(), random(200, 4)
    timesteps = torch.randint(1000, (200,), generator=generator(1))
    noisy, target = objective.corrupt(values, (timesteps + 1) / 1000, generator(2))
    noise = random(200, 4, seed=2)
    torch.testing.assert_close(noisy, scheduler.add_noise(values, noise, timesteps), atol=2e-6, rtol=1e-5)
    wanted = {"epsilon": noise, "sample": values, "v": scheduler.get_velocity(values, noise, timesteps)}[prediction]
    torch.testing.assert_close(target, wanted, atol=2e-6, rtol=1e-5)
    assert torch.equal((objective.scheduler_time(timesteps, scheduler) * 1000).round().long(), timesteps + 1)


def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal():
    """alpha_bar(k) = f(k) / f(0), f(t) = cos^2((t / T + 0.008) / 1.008 * pi / 2), betas at most 0.999."""
    f = torch.cos((torch.arange(1001).double() / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
    signal = load("diffusion")._signal
    torch.testing.assert_close(signal[:999], (f / f[0])[:999], atol=1e-5, rtol=1e-3)


def test_diffusion_times_are_uniform_over_the_steps():
    time = load("diffusion", {"steps": 10}).sample_time(spans([1] * 20_000), generator(0))
    counts = torch.bincount((time * 10).round().long(), minlength=11)
    assert counts[0] == 0 and ((counts[1:] - 2000).abs() < 200).all()


# ---------------------------------------------------------------- flow


def test_flow_is_a_straight_line():
    """x_t = (1 - t) x + t eps, and the velocity is its derivative."""
    objective, values, noise = Flow(), random(30, 4, dtype=torch.float64), random(30, 4, seed=2, dtype=torch.float64)
    time = torch.linspace(0, 1, 30, dtype=torch.float64)
    noisy, velocity = objective.corrupt(values, time, generator(2))
    torch.testing.assert_close(noisy, (1 - time[:, None]) * values + time[:, None] * noise)
    torch.testing.assert_close(velocity, noise - values)


def test_sample_and_velocity_predictions_have_the_same_error():
    """A network that says x-hat implies the velocity (x_t - x-hat) / t; both losses are that velocity's error."""
    values, guess, time = random(40, 4), random(40, 4, seed=3), torch.linspace(0.05, 1, 40)
    noisy, velocity = Flow().corrupt(values, time, generator(2))
    by_sample = Flow(prediction="sample")
    _, target = by_sample.corrupt(values, time, generator(2))
    implied = by_sample.scheduler_output(guess, noisy, time[:, None])
    torch.testing.assert_close(
        by_sample.loss(guess, target, time), Flow().loss(implied, velocity, time), atol=1e-4, rtol=1e-4
    )


def test_logit_normal_times_have_their_quantiles():
    """Of 1 / (1 + exp(-(mean + std z))), moved by s t / (1 + (s - 1) t)."""
    z = torch.tensor([-0.6745, 0.0, 0.6745])
    for mean, std, shift in ((0.0, 1.0, 1.0), (-0.5, 0.8, 3.0)):
        objective = Flow(mean=mean, std=std, shift=shift)
        time = objective.sample_time(spans([1] * 40_000), generator(0))
        t = torch.sigmoid(mean + std * z)
        want = shift * t / (1 + (shift - 1) * t)
        torch.testing.assert_close(time.quantile(torch.tensor([0.25, 0.5, 0.75])), want, atol=0.01, rtol=0)


def test_uniform_times_are_uniform():
    time = Flow(time="uniform").sample_time(spans([1] * 40_000), generator(0))
    q = torch.linspace(0.1, 0.9, 9)
    torch.testing.assert_close(time.quantile(q), q, atol=0.01, rtol=0)


# ---------------------------------------------------------------- discrete tokens


@pytest.mark.parametrize("kind", [k for k in kinds() if not hasattr(load(k), "corrupt")])
def test_certainty_gives_the_least_loss_of_discrete_tokens(kind):
    """0, of each token by itself; any other prediction gives more."""
    objective, ids = load(kind), torch.tensor([2, 0, 4])
    certain = F.one_hot(ids, 5) * 200.0
    assert objective.loss(certain, ids).tolist() == [0, 0, 0]
    for seed in range(3):
        logits = random(3, 5, seed=seed)
        found = objective.loss(logits, ids)
        assert (found > 0).all()
        torch.testing.assert_close(
            found, torch.cat([objective.loss(logits[n : n + 1], ids[n : n + 1]) for n in range(3)])
        )


def test_next_token_is_cross_entropy():
    logits, ids = random(7, 11), torch.randint(11, (7,), generator=generator(1))
    torch.testing.assert_close(load("next_token").loss(logits, ids), F.cross_entropy(logits, ids, reduction="none"))
    smoothed = load("next_token", {"label_smoothing": 0.1}).loss(logits, ids)
    log_p = logits.log_softmax(-1)
    torch.testing.assert_close(smoothed, -0.9 * log_p[torch.arange(7), ids] - 0.1 * log_p.mean(-1))
    assert load("next_token").loss(logits.bfloat16(), ids).dtype == torch.float32


def test_z_loss_is_the_square_of_the_log_partition():
    """Equal logits c over V ids: log Z = c + log V, and the cross-entropy is log V."""
    logits, ids = torch.full((3, 10), 2.0), torch.tensor([0, 5, 9])
    log_v = torch.tensor(10.0).log()
    loss = load("next_token", {"z_loss": 0.01}).loss(logits, ids)
    torch.testing.assert_close(loss, (log_v + 0.01 * (2 + log_v) ** 2).expand(3))


def test_the_least_next_token_loss_is_that_of_certainty():
    certain = F.one_hot(torch.tensor([2, 0]), 5) * 200.0
    assert load("next_token").loss(certain, torch.tensor([2, 0])).tolist() == [0, 0]


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    "kind, options, complaint",
    [
        ("flwo", {}, "did you mean 'flow'"),
        ("flow", {"shfit": 2}, "flow has no option 'shfit'; did you mean 'shift'"),
        ("flow", {"time": "uniforn"}, "did you mean 'uniform'"),
        ("flow", {"prediction": "epsilon"}, "flow.prediction 'epsilon'"),
        ("flow", {"std": 0}, r"flow.std must be in \(0, inf\), got 0"),
        ("flow", {"shift": float("inf")}, "flow.shift .* got inf"),
        ("flow", {"std": float("nan")}, "flow.std .* got nan"),
        ("flow", {"mean": float("-inf")}, "flow.mean .* got -inf"),
        ("flow", {"min_time": 1.0}, "flow.min_time"),
        ("flow", {"cap": 1.5}, r"flow.cap must be in \[0, 1\], got 1.5"),
        ("diffusion", {"prediction": "eps"}, "did you mean 'epsilon'"),
        ("diffusion", {"schedule": "cosin"}, "did you mean 'cosine'"),
        ("diffusion", {"steps": 0}, "steps >= 1"),
        ("diffusion", {"cap": float("nan")}, "cap <= 1"),
        ("next_token", {"z_loss": -1.0}, "z_loss"),
        ("next_token", {"z_loss": float("nan")}, "z_loss"),
        ("next_token", {"z_loss": float("inf")}, "z_loss"),
        ("next_token", {"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_bad_options_are_refused(kind, options, complaint):
    with pytest.raises(InputError, match=complaint):
        load(kind, options)
