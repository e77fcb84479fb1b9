"""x * sigmoid(x) (arXiv 1702.03118): of a gated unit, SwiGLU."""

import torch
import torch.nn.functional as F

from mot_gen.backbone import parts


class Activation(parts.Activation):
    """It has no options."""

    function = staticmethod(F.silu)

    @staticmethod
    def gradient(grad, x, out):
        torch.ops.aten.silu_backward.grad_input(grad, x, grad_input=out)
