"""GELU (arXiv 1606.08415) in the tanh form that Gemma has: of a gated unit, GeGLU."""

from functools import partial

import torch
import torch.nn.functional as F

from mot_gen.backbone import parts


class Activation(parts.Activation):
    """It has no options."""

    function = staticmethod(partial(F.gelu, approximate="tanh"))

    @staticmethod
    def gradient(grad, x, out):
        torch.ops.aten.gelu_backward.grad_input(grad, x, approximate="tanh", grad_input=out)
