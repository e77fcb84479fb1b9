"""UniGRPO: a text and the picture after it in one document, under one advantage.

The text is learned by GRPO and the picture by Flow-GRPO, each choice with the advantage of the whole document. The
penalty on pictures is the squared difference of velocities to the reference, at every time alike, where Flow-GRPO's
own would weigh the last steps, with little noise, many times as much.
"""

from __future__ import annotations

from torch import Tensor


def velocity_penalty(velocity: Tensor, reference: Tensor) -> Tensor:
    """velocity and reference (N, C) -> (N,): squared difference, averaged over channels."""
    return (velocity.float() - reference.float()).square().mean(-1)
