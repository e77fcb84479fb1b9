"""Objective: rectified flow (Liu et al. 2022), x_t = (1 - t) x + t eps, as in Stable Diffusion 3 and BAGEL."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Latents

TIMES = ("uniform", "logit_normal")
PREDICTIONS = ("velocity", "sample")


@dataclass(frozen=True)
class Objective:
    """The network predicts the velocity eps - x, or the sample x; the loss is that of the velocity either way.

    time: "uniform", or "logit_normal" = sigmoid(N(mean, std^2)). shift s moves it to noise: t -> s t / (1 + (s - 1) t).
    prediction: "sample" divides the error by t, since v = (x_t - x) / t (t at least `min_time`: Li & He 2025).
    cap: the most noise on an image that learned text follows; Transfusion's t <= 500 of 1000 is 0.5.
    """

    time: str = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    prediction: str = "velocity"
    min_time: float = 0.05
    cap: float = 0.5

    def __post_init__(self):
        for name, value, allowed in (("time", self.time, TIMES), ("prediction", self.prediction, PREDICTIONS)):
            if value not in allowed:
                raise InputError(f"objectives: flow.{name} {value!r} is not known" + nearest(value, allowed))
        for name, low, high in (("mean", -inf, inf), ("std", 0, inf), ("shift", 0, inf), ("min_time", 0, 1)):
            if not low < getattr(self, name) < high:
                raise InputError(f"objectives: flow.{name} must be in ({low}, {high}), got {getattr(self, name)!r}")
        if not 0 <= self.cap <= 1:
            raise InputError(f"objectives: flow.cap must be in [0, 1], got {self.cap!r}")

    def sample_time(self, latents: Latents, generator: torch.Generator | None = None) -> Tensor:
        """(n,) times, one per span: 0 where a span only conditions, at most `cap` where it leads learned text."""
        shape, device = latents.learned.shape, latents.learned.device
        if self.time == "uniform":
            time = torch.rand(shape, generator=generator, device=device)
        else:
            time = torch.sigmoid(self.mean + self.std * torch.randn(shape, generator=generator, device=device))
        time = self.shift * time / (1 + (self.shift - 1) * time)
        return torch.where(latents.leads, time * self.cap, time) * latents.learned

    def corrupt(self, values: Tensor, time: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """values (N, C), time (N,) -> the noised values and what the network should say, (N, C) each."""
        noise = torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)
        noisy = self.add_noise(values, noise, time)
        return noisy, (noise - values if self.prediction == "velocity" else values)

    def add_noise(self, values: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """values and noise (N, ..., C), time (N,) or () -> x_t, (N, ..., C)."""
        return torch.lerp(values, noise, time[..., None])

    def loss(self, output: Tensor, target: Tensor, time: Tensor) -> Tensor:
        """output and target (N, C), time (N,) -> (N,): the squared error of the velocity, averaged over channels."""
        error = (output.float() - target.float()).square().mean(-1)
        return error if self.prediction == "velocity" else error / time.clamp_min(self.min_time).square()

    def scheduler(self):
        """FlowMatchEulerDiscreteScheduler over the plain sigmas 1 ... 0, shifted as in training."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=self.shift)

    def fits(self, scheduler) -> str | None:
        config = scheduler.config
        flows = config.get("prediction_type") == "flow_prediction" or "FlowMatch" in type(scheduler).__name__
        return None if flows else "a flow-matching scheduler, such as FlowMatchEulerDiscreteScheduler"

    def scheduler_time(self, timestep: Tensor, scheduler) -> Tensor:
        return timestep.float() / scheduler.config.num_train_timesteps

    def scheduler_output(self, output: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """The velocity at x_t; time broadcasts against output."""
        return output if self.prediction == "velocity" else (noisy - output) / time.clamp_min(self.min_time)

    def clean(self, output: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """x by what `scheduler_output` gave at x_t = noisy; time broadcasts against both."""
        return noisy - time * output
