"""How a continuous span is integrated, by any diffusers scheduler: integrate, Schedule, Step, first_step, evaluations,
row_generators, held_still, noise.

A scheduler is exchanged as in diffusers, by `Scheduler.from_config(...)`: Euler and Heun for flows
(FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler), DDPM, DDIM, DPM-Solver++ and others for diffusion.

Shapes: N samples, n tokens of the span, C channels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import require

Predict = Callable[[Tensor, Tensor], Tensor]  # (x (N, n, C), timestep ()) -> what the scheduler steps with


@dataclass
class Step:
    """One step of a sampler, as it is shown.

    number: of the evaluations of the model.
    timestep: the scheduler's, ().
    noisy, output: what the model was given, and its prediction.
    x: the result, (N, n, C) as they are.
    clean: clean() -> the sample (N, n, C) that the model expects at the end, for previews; made only when it is asked
    for.
    """

    number: int
    timestep: Tensor
    noisy: Tensor
    output: Tensor
    x: Tensor
    clean: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Schedule:
    """A scheduler of diffusers, and which of its timesteps are taken.

    begin: the first of them, for an x that is not all noise. sigmas: see `set_timesteps`.
    """

    scheduler: Any
    num_inference_steps: int
    begin: int = 0
    sigmas: str | None = None

    def timesteps(self) -> Tensor:
        """Prepare the scheduler -> (steps,) the timesteps."""
        set_timesteps(self.scheduler, self.num_inference_steps, self.sigmas)
        if self.begin and hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(self.begin)
        return self.scheduler.timesteps[self.begin :]

    def scaled(self, x: Tensor, timestep: Tensor) -> Tensor:
        """x as the model is given it."""
        if hasattr(self.scheduler, "scale_model_input"):
            return self.scheduler.scale_model_input(x, timestep)
        return x

    def takes_generators(self) -> bool:
        """Whether the scheduler adds noise on the way."""
        return "generator" in inspect.signature(self.scheduler.step).parameters


def integrate(
    predict: Predict,
    x: Tensor,
    schedule: Schedule,
    generators: Sequence[torch.Generator] | None = None,
    on_step: Callable[[Step], Tensor] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Noise x (N, n, C) -> a sample of the same shape. InputError where the scheduler's arithmetic gave no numbers.

    generators: one a sample, for schedulers that add noise. on_step(step) -> x sees every step and may change its
    result. stopped: asked after every step; True leaves out those that follow.
    """
    scheduler = schedule.scheduler
    timesteps = schedule.timesteps()
    extra: dict[str, Any] = {}
    if generators is not None and schedule.takes_generators():
        extra["generator"] = list(generators)
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for number, timestep in enumerate(timesteps):
        scaled = schedule.scaled(x, timestep)
        output = predict(scaled, timestep)
        x = scheduler.step(output, timestep, x, **extra).prev_sample
        if on_step is not None:
            x = on_step(Step(number, timestep, scaled, output, x))
        if stopped():
            break
    # The ancestral schedulers of diffusers take the root of a difference of squares in fp32. Rounding makes it negative
    # where the first step is many times as long as the second.
    require(
        x.isfinite().all(),
        f"scheduler: {type(scheduler).__name__} gave NaN or infinity in {schedule.num_inference_steps} steps; "
        "take another number of steps, or another scheduler",
    )
    return x


def set_timesteps(scheduler, num_inference_steps: int, sigmas: str | None = None) -> None:
    """Prepare a scheduler of diffusers for so many steps. Its timesteps stay on the CPU: it computes with them one by
    one, and would let the host wait for a device each time.

    sigmas: None for its own; "even" for those from 1 down to 1 / steps, before its shift (BAGEL), where its own end at
    its least sigma; "native" likewise, from 1 - 1 / its timesteps of training (Cosmos3)."""
    if sigmas is None:
        scheduler.set_timesteps(num_inference_steps, device="cpu")
        return
    known = sigmas in ("even", "native")
    require(known, f"sampling.sigmas: {sigmas!r} is not known; it is even or native, or not given")
    taken = "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
    require(taken, f"sampling.sigmas: {type(scheduler).__name__} takes none; use FlowMatchEulerDiscreteScheduler")
    if sigmas == "even":
        scheduler.set_timesteps(sigmas=_evenly(1, num_inference_steps), device="cpu")
    else:
        first = 1 - 1 / scheduler.config.num_train_timesteps
        scheduler.set_timesteps(num_inference_steps, sigmas=_evenly(first, num_inference_steps), device="cpu")


def _evenly(first: float, count: int) -> list[float]:
    """So many numbers from the first down towards 0, which is left out."""
    return torch.linspace(first, 0, count + 1, dtype=torch.float64)[:-1].tolist()


def first_step(scheduler, num_inference_steps: int, strength: float) -> int:
    """The index of the timestep that a sample of this strength begins at, as in diffusers: the last
    strength * num_inference_steps of the steps are taken, none at strength 0."""
    scheduler.set_timesteps(num_inference_steps)
    skipped = num_inference_steps - min(int(num_inference_steps * strength), num_inference_steps)
    if skipped == num_inference_steps:
        return len(scheduler.timesteps)
    return skipped * getattr(scheduler, "order", 1)


def evaluations(scheduler, num_inference_steps: int, strength: float = 1.0) -> int:
    """How often the model is called; Heun's method calls it twice a step."""
    begin = first_step(scheduler, num_inference_steps, strength)
    return len(scheduler.timesteps) - begin


def row_generators(generator, count: int) -> list[torch.Generator] | None:
    """One generator a sample, so that a sample does not depend on the batch it is drawn in.

    generator: None (None is returned), a list of `count` (used as they are), or one. One generator draws the first
    sample itself, so that `generator=G`, `[G]` and a place of G in a list give the same sample. The others are seeded
    by what it would draw next.
    """
    if generator is None:
        return None
    several = isinstance(generator, (list, tuple))
    given = list(generator) if several else [generator]
    for each in given:
        fits = isinstance(each, torch.Generator)
        require(fits, f"generator must be a torch.Generator or a list of them, got {type(each).__name__}")
    if several:
        require(len(given) == count, f"generator: {len(given)} generators were given for {count} samples")
        return given
    ahead = generator.clone_state()  # so that the first sample finds the generator as it was given
    seeds = torch.randint(2**62, (count - 1,), generator=ahead, device=generator.device).tolist()
    return [generator, *(torch.Generator(generator.device).manual_seed(seed) for seed in seeds)]


def held_still(generators: Sequence[torch.Generator] | None, drawn: Sequence[bool]) -> list[torch.Generator] | None:
    """The generators of the samples that are drawn, and others in the place of those that are not, so that a sample
    does not depend on its batch."""
    if not generators:
        return None
    return [own if draws else torch.Generator(own.device) for own, draws in zip(generators, drawn)]


def noise(shapes: Sequence[tuple[int, ...]], generators, device, dtype) -> list[Tensor]:
    """A normal tensor for each shape, each from its own generator."""
    made = []
    for shape, generator in zip(shapes, generators or [None] * len(shapes)):
        own = device if generator is None else generator.device
        made.append(torch.randn(shape, generator=generator, device=own).to(device=device, dtype=dtype))
    return made
