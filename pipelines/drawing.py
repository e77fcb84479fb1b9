"""How a continuous span is drawn: Drawing, Known, draw.

Shapes: N samples, n tokens of a span, C channels; B branches of guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mot_gen.pipelines.decoding import TextSampling
from mot_gen.pipelines.guidance import Guidance
from mot_gen.pipelines.samplers import Step, first_step, integrate, noise
from mot_gen.pipelines.stream import Grid, OpenSpan


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
class Known:
    """A picture that drawing begins from: clean values (N, n, C).

    strength: how much of the way from noise is gone, from 0, which returns the values, to 1 (SDEdit, Meng et al. 2022).
    keep: (N, n) bool, the tokens that are not to change, at any strength (RePaint's replacement, Lugmayr et al. 2022,
    without its resampling).
    """

    values: Tensor
    strength: float = 1.0
    keep: Tensor | None = None


def draw(span: OpenSpan, drawing: Drawing, start: Tensor | None = None, known: Known | None = None) -> Tensor:
    """Integrate an open span, whose rows are the branches of N samples, from noise to a clean (N, n, C).

    start: (N, n, C) the noise to begin with; drawn from the generators when not given. Where spans differ in size, n is
    the longest; a scheduler that adds noise on the way then draws it for that length.
    """
    model, scheduler, guidance = span.stream.model, drawing.scheduler, drawing.guidance
    branches = len(guidance.branches)
    samples = span.stream.rows // branches
    modality = model.modalities[span.index]
    objective, counts = model.objectives[modality.name], span.counts[:samples]
    if start is None:
        shapes = [(n, modality.channels) for n in counts.tolist()]
        rows = noise(shapes, drawing.generators, span.stream.device, torch.float32)
        start = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    if known is not None:
        keep = None if known.keep is None else known.keep.to(start.device)
        known = Known(known.values.to(start), known.strength, keep)

    def time_of(timestep: Tensor) -> Tensor:
        return objective.scheduler_time(timestep, scheduler).to(start.device)

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        time = time_of(timestep)
        step = None
        if getattr(objective, "takes_step", False):
            step = objective.step_size(timestep, scheduler).to(start.device)
        if guidance.acts_at(time.item()):
            output = guidance.combine(span(x.repeat(branches, 1, 1), time, step), counts)
        else:
            output = span(x, time, step)
        return objective.scheduler_output(output, x, time)

    def finish(step: Step) -> Tensor:
        """Put what is to be kept back, as noisy as the rest is now, and show the step."""
        if known is not None and known.keep is not None:
            time = start.new_zeros(()) if step.next_timestep is None else time_of(step.next_timestep)
            step.x = torch.where(known.keep[..., None], objective.add_noise(known.values, start, time), step.x)
        step.clean = lambda: objective.clean(step.output, step.noisy, time_of(step.timestep))
        return step.x if drawing.on_step is None else drawing.on_step(step)

    begin, x, steps = 0, start, drawing.num_inference_steps
    if known is not None:
        begin = first_step(scheduler, steps, known.strength)
        if begin == len(scheduler.timesteps):
            return known.values
        x = objective.add_noise(known.values, start, time_of(scheduler.timesteps[begin]))
    return integrate(predict, x, scheduler, steps, drawing.generators, finish, begin, drawing.sigmas, drawing.stopped)
