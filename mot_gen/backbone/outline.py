"""Models without values: outlining, to ask for their shapes; initial_value, of one of their parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mot_gen.errors import require


class _NoInitialValues(TorchFunctionMode):
    """Leaves out the functions of `torch.nn.init`. On the meta device they change nothing, but torch imports its
    compiler to run them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", None) != "torch.nn.init":
            return func(*args, **(kwargs or {}))
        return args[0] if args else (kwargs or {})["tensor"]


@contextmanager
def outlining() -> Iterator[None]:
    """Within, a model is made on the meta device: every shape, no value, no memory."""
    with torch.device("meta"), _NoInitialValues():
        yield


def initial_value(model: nn.Module, name: str) -> Tensor:
    """The value that a parameter of a model on the meta device begins at, in fp32 on the CPU. It alone is in memory
    while its model draws it, so that a large model can be given its values one by one.

    InputError where the model writes none, as for a bare `nn.Parameter` of a module without `reset_parameters`.
    """
    path, _, leaf = name.rpartition(".")
    owner, empty = model.get_submodule(path), model.get_parameter(name)
    drawing: Any = model.backbone if name.startswith("backbone.") else model
    try:
        setattr(owner, leaf, nn.Parameter(torch.full(empty.shape, math.nan, device="cpu")))
        drawing.init_weights()
        value = getattr(owner, leaf).detach()
    finally:
        setattr(owner, leaf, empty)
    written = not value.isnan().any()
    require(written, f"{name} has no initial value; write it in reset_parameters of {type(owner).__name__}, its module")
    return value
