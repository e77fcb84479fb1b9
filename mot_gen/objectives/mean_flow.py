"""Objective: mean flows (Geng et al. 2025, arXiv 2505.13447), which sample in one evaluation, or as many as asked.

The network u(x, t, d) is given the time t and the size d of a step. It predicts the mean velocity over the step, so
that x_{t-d} = x_t - d u(x_t, t, d) is on the flow. Differentiating d u = integral of the velocity from t - d to t along
the flow, with t - d held, gives

    u(x_t, t, d) = v(x_t, t) - d (v d/dx + d/dt + d/dd) u(x_t, t, d)

The right side is the target, with the velocity e - x of the sample in the place of v. Its derivative is one
forward-mode product through the network with averaged weights, and is not followed backwards. At d = 0 it is `flow`.

The derivative with respect to time has to be smooth, so that times are embedded with frequencies up to `time_scale`.

Shapes: N tokens, n spans, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.objectives.forward_mode import derivative
from mot_gen.objectives.stepping_path import SteppingPath
from mot_gen.objectives.straight_path import Predict, is_kind_of
from mot_gen.sequence import Latents


@dataclass(frozen=True)
class Objective(SteppingPath):
    """The options of `SteppingPath`, of which prediction must be "velocity", and:

    time_scale: what times and steps are multiplied by before they are embedded.
    """

    time_scale: float = 10.0
    teacher_passes: ClassVar[int] = 2  # of a forward-mode product: the values, and their derivative
    fewest: ClassVar[int] = 1

    def __post_init__(self):
        super().__post_init__()
        self._check_number("time_scale", 0, float("inf"))
        if self.prediction != "velocity":
            raise InputError(f"objectives: mean_flow.prediction must be 'velocity', got {self.prediction!r}")

    def sample_steps(
        self, latents: Latents, time: Tensor, chosen: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Let the chosen spans, (n,) bool, learn a step: (n,) times and (n,) steps. It leads from the later to the
        earlier of two times that are drawn alike. Others keep their time and step 0."""
        other = self.sample_time(latents, generator)
        learns = chosen & latents.learned
        begin = torch.where(learns, torch.maximum(time, other), time)
        return begin, torch.where(learns, begin - torch.minimum(time, other), 0.0)

    def teach(self, latents: Latents, target: Tensor, predict: Predict) -> Tensor:
        """(N, C) what the network should predict for noised latents: v - d du/dt. target: (N, C) v.

        predict: the teacher, which is the model itself with averaged weights.
        """
        assert latents.time is not None and latents.step is not None
        time, step, values = latents.time, latents.step, latents.values
        tangents = (target.to(values.dtype), torch.ones_like(time), torch.ones_like(step))
        _, slope = derivative(predict, (values, time, step), tangents)
        return target - latents.per_token(step)[:, None] * slope.to(target.dtype)

    def step_size(self, timestep: Tensor, scheduler) -> Tensor:
        """(): the size of the step that the scheduler takes from this timestep; 0, the flow, for schedulers that do not
        take it at once (Heun's)."""
        if not is_kind_of(scheduler, "FlowMatchEuler"):
            return torch.zeros((), device=timestep.device)
        at = int((scheduler.timesteps == timestep).nonzero()[0])
        return (scheduler.sigmas[at] - scheduler.sigmas[at + 1]).to(timestep.device, torch.float32)
