"""A function's value and its derivative in one direction, by forward-mode differentiation: derivative.

It passes through every operation that has a forward-mode rule: PyTorch's own, and our functions that define `jvp`. Of
PyTorch's attention only the plain one has a rule, so that is what runs within.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from mot_gen.errors import InputError


@torch.no_grad()
def derivative(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """function(*inputs), and d/ds function(*(inputs + s * tangents)) at s = 0, of the same shape. Neither is followed
    backwards. InputError where an operation has no rule."""
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        try:
            output = function(*map(forward_ad.make_dual, inputs, tangents))
        except (NotImplementedError, RuntimeError) as error:
            if not any(word in str(error) for word in ("forward AD", "forward mode AD", "jvp")):
                raise
            raise InputError(
                "mean_flow: a part of this model has no forward-mode derivative "
                f"({' '.join(str(error).split())[:120]}); use shortcut, which needs none"
            ) from error
        value, slope = forward_ad.unpack_dual(output)
    return value, torch.zeros_like(value) if slope is None else slope
