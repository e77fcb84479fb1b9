"""Objective: rectified flow (Liu et al. 2022), x_t = (1 - t) x + t e, as in Stable Diffusion 3 and BAGEL."""

from __future__ import annotations

from dataclasses import dataclass

from mot_gen.objectives.straight_path import StraightPath

SOLVERS = ("euler", "unipc")


@dataclass(frozen=True)
class Objective(StraightPath):
    """The network learns the velocity e - x at every time; the options are those of `StraightPath`, and

    solver: how pictures are drawn. "euler" follows the velocity step by step. "unipc" (Zhao et al. 2023, arXiv
    2302.04867) also looks back at the step before, and so comes nearer to the flow in as many evaluations.
    drawing_shift: the shift of the sampler's times where it is not that of training (BAGEL).
    """

    solver: str = "euler"
    drawing_shift: float | None = None

    def __post_init__(self):
        super().__post_init__()
        self._check_name("solver", SOLVERS)

    def scheduler(self):
        """The scheduler of the solver, over the plain sigmas 1 ... 0 (unipc: from 0.999), shifted as in training or by
        drawing_shift."""
        from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

        shift = self.shift if self.drawing_shift is None else self.drawing_shift
        if self.solver == "euler":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
        return UniPCMultistepScheduler(
            num_train_timesteps=1000, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
