"""What the objectives that learn steps of the sampler share: SteppingPath, of `shortcut` and `mean_flow`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mot_gen.errors import InputError
from mot_gen.objectives.straight_path import StraightPath


@dataclass(frozen=True)
class SteppingPath(StraightPath):
    """The options of `StraightPath`, and:

    share: the part of a batch's rows that learns steps, and not the flow. The papers have a quarter.
    """

    share: float = 0.25
    takes_step: ClassVar[bool] = True  # the network is given the size of the step
    teacher_passes: ClassVar[int]  # forward passes that the targets of some rows cost

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise InputError(f"objectives: {self.kind}.share must be in [0, 1], got {self.share!r}")

    @property
    def extra_passes(self) -> float:
        """Forward passes over a batch that training makes beside the usual one."""
        return self.teacher_passes * self.share

    def scheduler(self):
        """Steps of equal size by Euler's method, shifted as in training."""
        from mot_gen.objectives.even_steps import EvenStepsScheduler

        return EvenStepsScheduler(num_train_timesteps=1000, shift=self.shift)
