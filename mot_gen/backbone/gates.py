"""activation(gate) * up of a gated unit, with a backward pass that keeps less memory than autograd's.

`gated` is the formula, `Gated` adds the backward pass. `RecomputedHidden` recomputes the product in the backward pass
of what comes after it. `plain_gate` is SwiGLU's, which `fused.gate` is compared with.

Shapes: n tokens, F width of the unit; gate and up side by side are (n, 2 F).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.backbone import parts
from mot_gen.backbone.activations import silu


def plain_gate(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, (n, 2 F) -> (n, F), which `fused.gate` is compared with."""
    return Gated.apply(gate_up, silu.Activation(), None)


def gated(gate_up: Tensor, activation: parts.Activation) -> Tensor:
    """(n, 2 F) -> (n, F)."""
    gate, up = gate_up.chunk(2, dim=-1)
    if torch.is_grad_enabled():
        return activation.function(gate) * up
    return activation.function(gate).mul_(up)


class RecomputedHidden:
    """Recomputes the hidden channels, for the backward pass of the layer that reads them. The backward pass of the
    gate, which comes next, takes the activated gate from here."""

    def __init__(self, gate_up: Tensor, activation: parts.Activation):
        self.gate_up, self.activation = gate_up, activation
        self._activated: Tensor | None = None

    def __call__(self) -> Tensor:
        gate, up = self.gate_up.chunk(2, dim=-1)
        self._activated = self.activation.function(gate)
        return self._activated * up

    def taken(self) -> Tensor | None:
        """The activated gate, which is then forgotten; None where it was not recomputed."""
        found, self._activated = self._activated, None
        return found


class Gated(torch.autograd.Function):
    """`gated` with a backward pass of its own."""

    # Autograd would keep activation(gate) as well, and join the gradients by one more copy.
    @staticmethod
    def forward(ctx, gate_up, activation, again):
        ctx.save_for_backward(gate_up)
        ctx.activation, ctx.again = activation, again
        return gated(gate_up, activation)

    @staticmethod
    def backward(ctx, grad):
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        activated = ctx.again.taken() if ctx.again else None
        if activated is None:
            activated = ctx.activation.function(gate)
        torch.mul(grad, activated, out=grad_up)
        ctx.activation.gradient(grad * up, gate, grad_gate)
        return grad_gate_up, None, None
