"""What the objectives over the straight path from data to noise share: StraightPath.

The path is rectified flow's (Liu et al. 2022): x_t = (1 - t) x + t e, with t from 0 (clean) to 1 (noise e). Its
velocity is v = e - x. `flow` learns the velocity at a time; `shortcut` and `mean_flow` learn the mean velocity
over a step as well.

Shapes: N tokens, n spans, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Latents

# (values (N, C), time (n,), step (n,)) -> the network's output (N, C), of objectives that are given the step
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]

TIMES = ("uniform", "logit_normal")
PREDICTIONS = ("velocity", "sample")


@dataclass(frozen=True)
class StraightPath:
    """The options and formulas of an objective over the straight path.

    time: how training draws t. "uniform", or "logit_normal" = sigmoid(N(mean, std^2)).
    shift: s moves the times towards noise, t -> s t / (1 + (s - 1) t).
    prediction: of the network, "velocity" or "sample" (x). The loss is the velocity's squared error either way:
    since v = (x_t - x) / t, the error of the sample is divided by t (Li & He 2025), taken as at least `min_time`.
    cap: the most noise on an image that learned text follows. Transfusion's t <= 500 of 1000 is 0.5.
    """

    time: str = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    prediction: str = "velocity"
    min_time: float = 0.05
    cap: float = 0.5

    @property
    def kind(self) -> str:
        """The objective's name in recipes and messages: that of its module."""
        return type(self).__module__.rpartition(".")[2]

    def __post_init__(self):
        self._check_name("time", TIMES)
        self._check_name("prediction", PREDICTIONS)
        self._check_number("mean", -inf, inf)
        self._check_number("std", 0, inf)
        self._check_number("shift", 0, inf)
        self._check_number("min_time", 0, 1)
        if not 0 <= self.cap <= 1:
            raise InputError(f"objectives: {self.kind}.cap must be in [0, 1], got {self.cap!r}")

    def _check_name(self, option: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, option)
        if value not in allowed:
            raise InputError(f"objectives: {self.kind}.{option} {value!r} is not known" + nearest(value, allowed))

    def _check_number(self, option: str, low: float, high: float) -> None:
        value = getattr(self, option)
        if not low < value < high:
            raise InputError(f"objectives: {self.kind}.{option} must be in ({low}, {high}), got {value!r}")

    def sample_time(self, latents: Latents, generator: torch.Generator | None = None) -> Tensor:
        """(n,) times, one a span: 0 where a span only conditions, at most `cap` where learned text follows it."""
        shape, device = latents.learned.shape, latents.learned.device
        if self.time == "uniform":
            time = torch.rand(shape, generator=generator, device=device)
        else:
            time = torch.sigmoid(self.mean + self.std * torch.randn(shape, generator=generator, device=device))
        time = self.shift * time / (1 + (self.shift - 1) * time)
        return torch.where(latents.leads, time * self.cap, time) * latents.learned

    def corrupt(self, values: Tensor, time: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """values (N, C) and time (N,) -> the noised values, and the target of the network, (N, C) each."""
        noise = torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)
        target = noise - values if self.prediction == "velocity" else values
        return self.add_noise(values, noise, time), target

    def add_noise(self, values: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """values and noise (N, ..., C), time (N,) or () -> x_t, (N, ..., C)."""
        return torch.lerp(values, noise, time[..., None])

    def loss(self, output: Tensor, target: Tensor, time: Tensor) -> Tensor:
        """output and target (N, C), time (N,) -> (N,): the velocity's squared error, averaged over the channels."""
        error = (output.float() - target.float()).square().mean(-1)
        if self.prediction == "velocity":
            return error
        return error / time.clamp_min(self.min_time).square()

    def fits(self, scheduler) -> str | None:
        """None where the scheduler can sample this objective, else what is needed instead."""
        if scheduler.config.get("use_dynamic_shifting"):
            return "it with use_dynamic_shifting=False, and a shift in its place"
        if scheduler.config.get("prediction_type") == "flow_prediction" or is_kind_of(scheduler, "FlowMatch"):
            return None
        if "use_flow_sigmas" in scheduler.config:
            made = f"{type(scheduler).__name__}.from_config(pipe.scheduler.config"
            return f"{made}, prediction_type='flow_prediction', use_flow_sigmas=True)"
        return "a flow-matching scheduler, such as FlowMatchEulerDiscreteScheduler"

    def scheduler_time(self, timestep: Tensor, scheduler) -> Tensor:
        """The time t of a scheduler's timestep."""
        return timestep.float() / scheduler.config.num_train_timesteps

    def scheduler_output(self, output: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """The velocity at x_t = noisy, from the network's prediction; time broadcasts against output."""
        if self.prediction == "velocity":
            return output
        return (noisy - output) / time.clamp_min(self.min_time)

    def clean(self, output: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """x, from the velocity at x_t = noisy; time broadcasts against both."""
        return noisy - time * output


def is_kind_of(scheduler, name: str) -> bool:
    """Whether the scheduler's class, or one that it is derived from, has this in its name."""
    return any(name in cls.__name__ for cls in type(scheduler).__mro__)
