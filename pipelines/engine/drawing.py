"""How a continuous span is drawn: Drawing, KnownPicture, draw.

Shapes: N samples, n tokens of a span, C channels; B branches of guidance; T evaluations of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mot_gen.pipelines.engine.decoding import TextSampling
from mot_gen.pipelines.engine.guidance import Guidance
from mot_gen.pipelines.engine.open_span import Grid, OpenSpan
from mot_gen.pipelines.engine.samplers import Schedule, Step, first_step, integrate, noise, set_timesteps
from mot_gen.sequence.moving import upload


@dataclass
class Drawing:
    """How continuous spans are drawn: the scheduler and its steps, guidance, a generator a sample, grids by modality.

    on_step(`samplers.Step`) -> x (N, n, C) is called after every step. sigmas: see `samplers.set_timesteps`. stopped:
    asked after every step and token; True ends what is being made where it is. tokens: how masked tokens are chosen; by
    default as those of text are.
    """

    scheduler: Any = None
    num_inference_steps: int = 50
    guidance: Guidance = field(default_factory=Guidance)
    generators: list[torch.Generator] | None = None
    grids: dict[str, Grid] = field(default_factory=dict)
    on_step: Callable[[Step], Tensor] | None = None
    sigmas: str | None = None
    stopped: Callable[[], bool] = lambda: False
    tokens: TextSampling | None = None


@dataclass
class KnownPicture:
    """A picture that drawing begins from: clean values (N, n, C).

    strength: how much of the way from noise is gone, from 0, which returns the values, to 1 (SDEdit, Meng et al. 2022).
    keep: (N, n) bool, the tokens that are not to change, at any strength (RePaint's replacement, Lugmayr et al. 2022,
    without its resampling).
    """

    values: Tensor
    strength: float = 1.0
    keep: Tensor | None = None

    def like(self, x: Tensor) -> KnownPicture:
        """A copy on the device and in the dtype of x."""
        keep = None if self.keep is None else self.keep.to(x.device)
        return KnownPicture(self.values.to(x), self.strength, keep)


def draw(span: OpenSpan, drawing: Drawing, start: Tensor | None = None, known: KnownPicture | None = None) -> Tensor:
    """Integrate an open span, whose rows are the branches of N samples, from noise to a clean (N, n, C).

    start: (N, n, C) the noise to begin with; drawn from the generators when not given. Where spans differ in size, n is
    the longest; a scheduler that adds noise on the way then draws it for that length.
    """
    scheduler, steps = drawing.scheduler, drawing.num_inference_steps
    samples = span.stream.rows // len(drawing.guidance.branches)
    if start is None:
        shapes = [(n, span.modality.channels) for n in span.sizes[:samples]]
        start = pad_sequence(noise(shapes, drawing.generators, span.stream.device, torch.float32), batch_first=True)
    begin, x = 0, start
    if known is not None:
        known = known.like(start)
        begin = first_step(scheduler, steps, known.strength)
        if begin == len(scheduler.timesteps):
            return known.values
    set_timesteps(scheduler, steps, drawing.sigmas)
    denoiser = _Denoiser(span, drawing, begin)
    if known is not None:
        x = denoiser.noised(known.values, start, begin)

    def finish(step: Step) -> Tensor:
        """Put what is to be kept back, as noisy as the rest is now, and show the step."""
        number = begin + step.number
        if known is not None and known.keep is not None:
            step.x = torch.where(known.keep[..., None], denoiser.noised(known.values, start, number + 1), step.x)
        step.clean = lambda: denoiser.clean(step, number)
        return step.x if drawing.on_step is None else drawing.on_step(step)

    schedule = Schedule(scheduler, steps, begin, drawing.sigmas)
    return integrate(denoiser.predict, x, schedule, drawing.generators, finish, drawing.stopped)


class _Denoiser:
    """The model as a sampler calls it, with guidance.

    Times and steps are known before the first evaluation, so that the device is given all of them at once: times (T,)
    there, clock: the same for the host.
    """

    def __init__(self, span: OpenSpan, drawing: Drawing, begin: int):
        self.span, self.guidance, self.number = span, drawing.guidance, begin
        scheduler, device = drawing.scheduler, span.stream.device
        self.objective = objective = span.stream.model.objectives[span.modality.name]
        times = objective.scheduler_time(scheduler.timesteps, scheduler)
        self.clock = times.tolist()
        self.times = upload(times, device)
        self.steps: Tensor | None = None
        if getattr(objective, "takes_step", False):
            sizes = [objective.step_size(timestep, scheduler) for timestep in scheduler.timesteps]
            self.steps = upload(torch.stack(sizes), device)
        self.conditioning = span.embed(self.times, self.steps)
        self.branches = len(self.guidance.branches)
        self.counts = None if span.full else span.counts[: span.stream.rows // self.branches]

    def predict(self, x: Tensor, timestep: Tensor) -> Tensor:
        """x (N, n, C) -> what the scheduler steps with, at the next of its timesteps."""
        number = self.number
        self.number += 1
        time = self.times[number]
        step = None if self.steps is None else self.steps[number]
        condition = (time, step, None if self.conditioning is None else self.conditioning[number])
        if self.branches == 1 or not self.guidance.acts_at(self.clock[number]):
            output = self.span(x, *condition)
        else:
            output = self.guidance.combine(self.span(x.repeat(self.branches, 1, 1), *condition), self.counts)
        return self.objective.scheduler_output(output, x, time)

    def noised(self, values: Tensor, noise: Tensor, number: int) -> Tensor:
        """Clean values as noisy as x is before evaluation `number`, of which there may be no more."""
        time = self.times[number] if number < len(self.times) else torch.zeros_like(self.times[0])
        return self.objective.add_noise(values, noise, time)

    def clean(self, step: Step, number: int) -> Tensor:
        """The sample that the model expects at the end, by its prediction in this step."""
        return self.objective.clean(step.output, step.noisy, self.times[number])
