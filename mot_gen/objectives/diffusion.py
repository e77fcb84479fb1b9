"""Objective: denoising diffusion (Ho et al. 2020), cosine schedule (Nichol & Dhariwal 2021), as in Transfusion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.sequence import Latents

# Our names and diffusers' `prediction_type`.
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear", "scaled_linear": "scaled_linear"}


@dataclass(frozen=True)
class Objective:
    """x_k = sqrt(a_k) x + sqrt(1 - a_k) eps, k in 0 ... steps - 1; time (k + 1) / steps, and 0 for a clean span.

    prediction: what the network predicts, whose squared error is the loss: "epsilon", "v" = sqrt(a) eps - sqrt(1 - a) x
    (Salimans & Ho 2022), or "sample". cap: the most noise on an image that learned text follows (0.5: k < 500).
    """

    prediction: str = "epsilon"
    schedule: str = "cosine"
    steps: int = 1000
    cap: float = 0.5

    def __post_init__(self):
        for name, value, allowed in (
            ("prediction", self.prediction, PREDICTIONS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in allowed:
                raise InputError(f"objectives: diffusion.{name} {value!r} is not known" + nearest(value, allowed))
        if self.steps < 1 or not 0 <= self.cap <= 1:
            raise InputError(
                f"objectives: diffusion needs steps >= 1 and 0 <= cap <= 1, got {self.steps} and {self.cap}"
            )

    @cached_property
    def _signal(self) -> Tensor:
        """(steps + 1,) float64: the signal's share a of the variance at time k / steps; 1 at time 0."""
        kept = self.scheduler().alphas_cumprod.double()
        return torch.cat([kept.new_ones(1), kept])

    def _scales(self, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        a = self._signal.to(time.device)[(time * self.steps).round().long()]
        return a.sqrt().to(like.dtype)[..., None], (1 - a).sqrt().to(like.dtype)[..., None]

    def sample_time(self, latents: Latents, generator: torch.Generator | None = None) -> Tensor:
        """(n,) times, one per span: 0 where a span only conditions, at most `cap` where it leads learned text."""
        uniform = torch.rand(latents.learned.shape, generator=generator, device=latents.learned.device)
        capped = max(1, round(self.cap * self.steps)) if self.cap else 0
        most = torch.where(latents.leads, capped, self.steps)
        return torch.ceil((1 - uniform) * most) / self.steps * latents.learned

    def corrupt(self, values: Tensor, time: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """values (N, C), time (N,) -> the noised values, and the target of the network, (N, C) each."""
        noise = torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)
        signal, sigma = self._scales(time, values)
        target = {"epsilon": noise, "sample": values, "v": signal * noise - sigma * values}[self.prediction]
        return self.add_noise(values, noise, time), target

    def add_noise(self, values: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """values and noise (N, ..., C), time (N,) or () -> x_k, (N, ..., C)."""
        signal, sigma = self._scales(time, values)
        return signal * values + sigma * noise

    def loss(self, output: Tensor, target: Tensor, time: Tensor) -> Tensor:
        """output and target (N, C), time (N,) -> (N,): squared error averaged over channels."""
        return (output.float() - target.float()).square().mean(-1)

    def scheduler(self):
        """DDPMScheduler with this schedule and prediction; values are not clipped, since latents have no bounds."""
        from diffusers import DDPMScheduler

        return DDPMScheduler(
            num_train_timesteps=self.steps,
            beta_schedule=SCHEDULES[self.schedule],
            prediction_type=PREDICTIONS[self.prediction],
            clip_sample=False,
        )

    def fits(self, scheduler) -> str | None:
        """The kind of scheduler it needs where the given one will not do; None where it will."""
        config, wanted = scheduler.config, PREDICTIONS[self.prediction]
        if "FlowMatch" in type(scheduler).__name__ or config.get("prediction_type", "epsilon") != wanted:
            return f"a diffusion scheduler with prediction_type {wanted!r}, such as DDIMScheduler"
        return None

    def scheduler_time(self, timestep: Tensor, scheduler) -> Tensor:
        return (timestep.float() + 1) / self.steps

    def scheduler_output(self, output: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        return output

    def clean(self, output: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """x by what `scheduler_output` gave at x_k = noisy, (N, ..., C) each; time (N,) or ()."""
        signal, sigma = self._scales(time, noisy)
        if self.prediction == "sample":
            return output
        if self.prediction == "v":
            return signal * noisy - sigma * output
        return (noisy - sigma * output) / signal.clamp_min(1e-3)  # at the most noise the signal is all but gone
