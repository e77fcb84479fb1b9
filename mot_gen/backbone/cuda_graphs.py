"""Passes over a cache as CUDA graphs: the switch, use and is_used; and Graph.

The kernels of a decoded token or of a denoising step are small: a device runs them in less time than the host needs to
launch them. A graph holds them all and is launched at once. What it can hold is a pass that reads and writes the same
memory every time, and for which the host reads nothing: see `next_token` and `one_tower`.

Graphs are off, because no GPU has shown yet that they give the same and take less time; `make gpu` measures both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_used = False


def use(graphs: bool = True) -> None:
    """Let passes that begin from now on be recorded and replayed on a GPU, or run kernel by kernel again."""
    global _used
    _used = graphs


def is_used(x: Tensor) -> bool:
    """Whether passes over such a tensor are recorded."""
    return _used and x.is_cuda


class Graph:
    """A function of one tensor, which is recorded when it is called for the second time, and replayed from then on.

    The first call runs as it is, since it makes what is kept from call to call. The function must do the same
    operations at every call: all that it reads beside its argument is changed in place or not at all.
    """

    def __init__(self) -> None:
        self.begun = False
        self.recorded: torch.cuda.CUDAGraph | None = None
        self.given = self.made = torch.empty(0)

    def __call__(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """run(x), of the shape and dtype that it had before; a tensor that later calls leave alone."""
        if not self.begun:
            self.begun = True
            return run(x)
        if self.recorded is None:
            self._record(run, x)
        assert self.recorded is not None
        self.given.copy_(x)
        self.recorded.replay()
        return self.made.clone()

    def _record(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.given, graph = torch.empty_like(x), torch.cuda.CUDAGraph()
        # Other threads may go on meanwhile: a loader that pins memory would else spoil the record.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.made = run(self.given)
        self.recorded = graph
