"""Flow-GRPO (Liu et al. 2025, arXiv 2505.05470): a sampler of flows whose every step is a Gaussian, and its likelihood.

A flow's own sampler is deterministic, so nothing in it was chosen. `StochasticFlow` draws each step from a Gaussian and
ends, as the steps become small, in the same distribution. In our convention, time t from 1, noise, to 0, clean, and the
network says the velocity v = e - x_0.

Shapes: N tokens or samples, C channels; times broadcast against them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.pipelines.engine.samplers import noise

KINDS = ("cps", "sde")
Gaussian = tuple[Tensor, Tensor]  # mean, standard deviation
Generators = Sequence[torch.Generator]
TIMESTEPS = 1000  # diffusers' unit of time


@dataclass(frozen=True)
class StochasticFlow:
    """How each step of a flow is drawn.

    kind: "sde", Flow-GRPO's own; or "cps", Coefficients-Preserving Sampling (arXiv 2509.05952), which leaves no noise
    in the sample. noise: Flow-GRPO's a, about 0.7; of cps the eta in (0, 1]. shift: of the times, as in training.
    """

    kind: str = "cps"
    noise: float = 0.7
    shift: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(f"reinforce.sampler: {self.kind!r} is not known{nearest(self.kind, KINDS)}")
        most = 1.0 if self.kind == "cps" else math.inf
        if not 0 < self.noise <= most:
            limit = "above 0" if self.kind == "sde" else "above 0, at most 1"
            raise InputError(
                f"reinforce.noise: must be {limit}, got {self.noise}; a sampler without noise chooses nothing, so "
                "there would be nothing to learn"
            )

    # ---------------------------------------------------------------- the Gaussian of a step

    def times(self, steps: int) -> Tensor:
        """(steps + 1,) from 1 to 0."""
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return (self.shift * even / (1 + (self.shift - 1) * even)).float()

    def step_of(self, noisy: Tensor, velocity: Tensor, time: Tensor, after: Tensor, most: Tensor) -> Gaussian:
        """Mean and standard deviation of x at the time `after`, given x = noisy at `time`.

        most: the time to which `time` is capped where the noise would be infinite, the second of all steps.
        """
        if self.kind == "cps":
            return self._preserving(noisy, velocity, time, after)
        return self._langevin(noisy, velocity, time, after, most)

    def _langevin(self, noisy: Tensor, velocity: Tensor, time: Tensor, after: Tensor, most: Tensor) -> Gaussian:
        """dx = (v + s^2 / (2 t) (x + (1 - t) v)) dt + s dw, s = a sqrt(t / (1 - t)): the flow's drift, and noise with
        as much drift along the score as keeps every marginal."""
        dt = after - time
        half = self.noise**2 / (2 * (1 - torch.minimum(time, most)))  # s^2 / (2 t)
        mean = noisy * (1 + half * dt) + velocity * (1 + half * (1 - time)) * dt
        return mean, (2 * half * time * -dt).sqrt()

    def _preserving(self, noisy: Tensor, velocity: Tensor, time: Tensor, after: Tensor) -> Gaussian:
        """x' = (1 - t') x_0 + t' cos(b) e + t' sin(b) z, b = noise pi / 2: the signal and all of the noise keep the
        coefficients that they have on the flow's path."""
        angle = self.noise * math.pi / 2
        clean, noise = noisy - time * velocity, noisy + (1 - time) * velocity
        return (1 - after) * clean + after * math.cos(angle) * noise, after * math.sin(angle)

    def begin(self, steps: int, drawn: Tensor) -> FlowPath:
        """A sampler of so many steps, for one batch. drawn: see `FlowPath`."""
        return FlowPath(self, self.times(steps), drawn)

    def noisy_steps(self, steps: int) -> int:
        """How many of so many steps have noise: all but the last of cps."""
        return steps - (self.kind == "cps")


class _Config(dict[str, Any]):
    """Entries that are attributes as well, as diffusers' FrozenDict."""

    __getattr__ = dict.__getitem__


class FlowPath:
    """One batch being sampled, a scheduler as diffusers has them: `mot_gen.pipelines.engine.draw` steps with it.

    drawn: (N, steps) bool, which steps of each sample are drawn from their Gaussian. The others are those of Euler's
    method, so that a sample of a few drawn steps is nearly what the flow draws by itself (MixGRPO, arXiv 2507.21802).
    noisy, after: x before and after each step, (N, n, C) each.
    """

    def __init__(self, flow: StochasticFlow, times: Tensor, drawn: Tensor):
        self.flow, self.times, self.drawn = flow, times, drawn
        self.config = _Config(num_train_timesteps=TIMESTEPS, prediction_type="flow_prediction")
        self.noisy: list[Tensor] = []
        self.after: list[Tensor] = []

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """The times were given; this begins at the first."""
        self.timesteps = (self.times[:-1] * TIMESTEPS).to(device)
        self.noisy, self.after = [], []

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor, generator: Generators | None = None) -> Any:
        """The velocity and x, (N, n, C) each -> the next x; each sample draws its noise from its own generator."""
        number = len(self.noisy)
        time, after, most = (self.times[place].to(sample) for place in (number, number + 1, 1))
        mean, std = self.flow.step_of(sample, output, time, after, most)
        chosen = self.drawn[:, number, None, None].to(sample.device)
        drawn = torch.stack(noise([x.shape for x in sample], generator, sample.device, sample.dtype))
        euler = sample + output * (after - time)
        self.noisy.append(sample)
        self.after.append(torch.where(chosen, mean + std * drawn, euler))
        return SimpleNamespace(prev_sample=self.after[-1])


# ---------------------------------------------------------------- likelihood and penalty


def log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """x and mean (N, C), std (N, 1) or () -> (N,) log of the Gaussian's density, summed over channels."""
    normal = -((x - mean) / std).square() / 2 - std.log() - math.log(2 * math.pi) / 2
    return normal.sum(-1)


def gaussian_kl(mean: Tensor, reference: Tensor, std: Tensor) -> Tensor:
    """KL between two Gaussians of one standard deviation, (N,), summed over channels: |m - m_ref|^2 / (2 std^2)."""
    return ((mean - reference) / std).square().sum(-1) / 2
