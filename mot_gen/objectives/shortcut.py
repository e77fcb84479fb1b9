"""Objective: shortcut models (Frans et al. 2024, arXiv 2410.12557), which sample in as few evaluations as asked.

The network s(x, t, d) is given the time t and the size d of a step. It predicts the mean velocity over the step, so
that x_{t-d} = x_t - d s(x_t, t, d) is on the flow. At d = 0 it is the flow's velocity, and is learned as `flow` learns
it. A step of 2d is learned from the network itself, since two steps of d lead to the same place:

    s(x_t, t, 2d) = (s(x_t, t, d) + s(x_{t-d}, t - d, d)) / 2

Shapes: N tokens, n spans, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2
from typing import ClassVar

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.objectives.stepping_path import SteppingPath
from mot_gen.objectives.straight_path import Predict, is_kind_of
from mot_gen.sequence import Latents


@dataclass(frozen=True)
class Objective(SteppingPath):
    """The options of `SteppingPath`, and:

    finest: into how many steps the path is cut at its finest. Steps of 1 / finest are taken by the flow itself; steps
    of 2 / finest, 4 / finest, ... are learned from two of half the size. The paper has 128.
    fewest: how many evaluations are enough; 1 / fewest is the largest step that is learned.
    """

    min_time: float = 0.01
    finest: int = 32
    fewest: int = 1
    teacher_passes: ClassVar[int] = 2  # the two half steps

    def __post_init__(self):
        super().__post_init__()
        for name in ("finest", "fewest"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise InputError(f"objectives: shortcut.{name} must be a power of two, got {value!r}")
        if self.fewest >= self.finest:
            raise InputError(f"objectives: shortcut needs fewest below finest, got {self.fewest} and {self.finest}")
        if self.prediction == "sample" and self.min_time > 1 / self.finest:
            raise InputError(f"objectives: shortcut.min_time must be at most 1 / finest, got {self.min_time!r}")

    @property
    def steps(self) -> list[float]:
        """The sizes of steps that are learned, ascending; all are powers of two, which floats hold exactly."""
        sizes = [2 / self.finest]
        while sizes[-1] < 1 / self.fewest:
            sizes.append(2 * sizes[-1])
        return sizes

    # ------------------------------------------------------------ training

    def sample_steps(
        self, latents: Latents, time: Tensor, chosen: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Let the chosen spans, (n,) bool, learn a step: (n,) times and (n,) steps. Others keep their time and step 0.

        A step begins at a multiple of its size. Where learned text follows it begins at `cap` at most, and a span for
        which the step is too large for that learns the flow.
        """
        sizes = torch.tensor(self.steps, device=time.device)
        draws = torch.rand(2, len(time), generator=generator, device=time.device)
        step = sizes[(draws[0] * len(sizes)).long()]
        highest = torch.where(latents.leads, self.cap, 1.0)
        beginnings = torch.floor(highest / step)
        begin = step * (1 + torch.floor(draws[1] * beginnings))
        learns = chosen & latents.learned & (beginnings > 0)
        return torch.where(learns, begin, time), torch.where(learns, step, 0.0)

    @torch.no_grad()
    def teach(self, latents: Latents, target: Tensor, predict: Predict) -> Tensor:
        """(N, C) what the network should predict for noised latents whose step is not 0: where two half steps lead.

        target: what the flow's would be, which is not used here. predict: the teacher, which is the model itself with
        averaged weights. What is returned for spans at step 0 is not to be used.
        """
        assert latents.time is not None and latents.step is not None
        time, values = latents.time, latents.values
        half = latents.step / 2
        given_step = torch.where(half < self.steps[0], 0.0, half)  # the finest steps are the flow's
        first = self._velocity(latents, predict, values, time, given_step)
        halfway = values - latents.per_token(half)[:, None] * first
        second = self._velocity(latents, predict, halfway, time - half, given_step)
        velocity = (first + second) / 2
        if self.prediction == "velocity":
            return velocity
        return values - latents.per_token(time)[:, None].clamp_min(self.min_time) * velocity

    def _velocity(self, latents: Latents, predict: Predict, values: Tensor, time: Tensor, step: Tensor) -> Tensor:
        output = predict(values, time, step).to(values.dtype)
        return self.scheduler_output(output, values, latents.per_token(time)[:, None])

    # ------------------------------------------------------------ sampling

    def step_size(self, timestep: Tensor, scheduler) -> Tensor:
        """(): what the network is given for the step that the scheduler takes from this timestep.

        It is the largest step that was learned and is not longer than this one. It is 0, the flow, where there is none,
        and for schedulers that do not take the step at once (Heun's).
        """
        sigmas, timesteps = scheduler.sigmas, scheduler.timesteps
        if not is_kind_of(scheduler, "FlowMatchEuler"):
            return torch.zeros((), device=timestep.device)
        at = int((timesteps == timestep).nonzero()[0])
        size = float(sigmas[at] - sigmas[at + 1])
        if size * 1.001 < self.steps[0]:  # 0.1%: times are float32
            return torch.zeros((), device=timestep.device)
        given_step = min(2.0 ** floor(log2(size * 1.001)), self.steps[-1])
        return torch.tensor(given_step, device=timestep.device)
