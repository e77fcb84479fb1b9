"""How a continuous span is drawn: integrate (any diffusers scheduler), Guidance, row_generators, noise.

A scheduler is exchanged as in diffusers, by `Scheduler.from_config(...)`: Euler and Heun for flows
(FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler), DDPM, DDIM, DPM-Solver++ and others for diffusion.

Shapes: N samples, n tokens of the span, C channels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.errors import InputError

Predict = Callable[[Tensor, Tensor], Tensor]  # (x (N, n, C), timestep ()) -> what the scheduler steps with


def integrate(
    predict: Predict,
    x: Tensor,
    scheduler,
    num_inference_steps: int,
    generators: Sequence[torch.Generator] | None = None,
    on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Noise x (N, n, C) -> a sample of the same shape.

    generators: one a sample, for schedulers that add noise. on_step(step, timestep, x) -> x sees every step's result.
    """
    scheduler.set_timesteps(num_inference_steps, device=x.device)
    accepted = inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if generators is not None and "generator" in accepted else {}
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for number, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(predict(scaled, timestep), timestep, x, **extra).prev_sample
        if on_step is not None:
            x = on_step(number, timestep, x)
    return x


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional + scale * (conditional - unconditional).

    Scale 1 is the conditional prediction and 0 the unconditional one; each then costs one branch instead of two.
    """

    scale: float = 1.0

    def __post_init__(self):
        if not 0 <= self.scale < float("inf"):
            raise InputError(f"guidance_scale must be a number of at least 0 (1 = off), got {self.scale}")

    @property
    def branches(self) -> tuple[str, ...]:
        """What must be predicted: "conditional", "unconditional", or both."""
        if self.scale == 1:
            return ("conditional",)
        return ("unconditional",) if self.scale == 0 else ("conditional", "unconditional")

    def combine(self, predictions: Tensor) -> Tensor:
        """(branches * N, ...) -> (N, ...)."""
        if len(self.branches) == 1:
            return predictions
        conditional, unconditional = predictions.chunk(2)
        return torch.lerp(unconditional, conditional, self.scale)


def row_generators(generator, count: int) -> list[torch.Generator] | None:
    """One generator a sample, so that a sample does not depend on the batch it is drawn in.

    generator: None (None is returned), a list of `count` (used as they are), or one, which seeds all others in turn.
    """
    if generator is None:
        return None
    if isinstance(generator, (list, tuple)):
        if len(generator) != count:
            raise InputError(f"generator: {len(generator)} generators were given for {count} samples")
        return list(generator)
    seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device).tolist()
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]


def noise(shapes: Sequence[tuple[int, ...]], generators, device, dtype) -> list[Tensor]:
    """A normal tensor for each shape, each from its own generator."""
    generators = generators or [None] * len(shapes)
    made = (
        torch.randn(shape, generator=g, device=g.device if g is not None else device)
        for shape, g in zip(shapes, generators)
    )
    return [x.to(device=device, dtype=dtype) for x in made]
