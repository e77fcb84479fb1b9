"""The dtype that weights are loaded in: check_dtype."""

from __future__ import annotations

import torch

from mot_gen.errors import require


def check_dtype(given: dict) -> None:
    """Make the dtype among the arguments of `from_pretrained`, of torch or its name, one of torch. InputError for what
    is none: diffusers would load in float32 and say so in a log alone."""
    for name in given.keys() & {"dtype", "torch_dtype"}:
        asked = given[name]
        if isinstance(asked, dict):  # diffusers' way to give each component its own
            continue
        found = getattr(torch, asked, asked) if isinstance(asked, str) else asked
        is_float = isinstance(found, torch.dtype) and found.is_floating_point
        remedy = "give one, as torch.bfloat16 or 'bfloat16'"
        require(found is None or is_float, f"{name}={asked!r} is no dtype of weights; {remedy}")
        given[name] = found
