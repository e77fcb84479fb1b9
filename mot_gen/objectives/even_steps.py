"""The scheduler of objectives that are sampled in a few steps of equal size: EvenStepsScheduler."""

from __future__ import annotations

# SchedulerMixin is not used here, but a pipeline that is loaded looks for it in the module of its scheduler.
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin

__all__ = ["EvenStepsScheduler", "SchedulerMixin"]


class EvenStepsScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler's method over the times 1, 1 - 1/n, ..., 1/n, 0.

    diffusers' own n times run from 1 to 1/1000, so that two steps would be of sizes 0.999 and 0.001.
    """

    def set_timesteps(self, num_inference_steps: int | None = None, device=None, sigmas=None, **kwargs) -> None:
        """As in diffusers; `sigmas`, if given, stand in the place of the even ones."""
        if sigmas is None and num_inference_steps is not None:
            sigmas = [1 - step / num_inference_steps for step in range(num_inference_steps)]
        # diffusers' names are made at run time, and a checker does not see them.
        super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas, **kwargs)  # type: ignore[misc]
