"""Objective: rectified flow (Liu et al. 2022), x_t = (1 - t) x + t e, as in Stable Diffusion 3 and BAGEL."""

from __future__ import annotations

from dataclasses import dataclass

from mot_gen.objectives.straight_path import StraightPath


@dataclass(frozen=True)
class Objective(StraightPath):
    """The network learns the velocity e - x at every time; the options are those of `StraightPath`, and

    drawing_shift: the shift of the sampler's times where it is not that of training (BAGEL)."""

    drawing_shift: float | None = None

    def scheduler(self):
        """FlowMatchEulerDiscreteScheduler over the plain sigmas 1 ... 0, shifted as in training or by drawing_shift."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        shift = self.shift if self.drawing_shift is None else self.drawing_shift
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
