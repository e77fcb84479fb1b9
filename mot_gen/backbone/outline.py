"""outlining: models without values, to ask for their shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


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
