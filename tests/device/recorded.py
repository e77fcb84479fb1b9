"""What a CUDA graph does, on a CPU: Recorded keeps the operations of a pass and runs them again over the same memory;
graphs gives the pretended device what `torch.cuda` has for this.

Like a graph, it knows nothing of Python: whatever the host computed is as it was when the pass was recorded. So a
replay gives the right values only if all that changes is in tensors that are renewed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from launches import kind_of_wait, operation_name
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorded(TorchDispatchMode):
    """`with Recorded() as graph: ...` records, and `graph.replay()` runs it again. RuntimeError where the host reads a
    value or copies one, which a graph cannot do."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = operation_name(func), kwargs or {}
        kind = kind_of_wait(name, args, kwargs)
        if kind is not None:
            raise RuntimeError(f"{name}: {kind} while a graph is recorded")
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for kept, new in zip(tree_leaves(result), tree_leaves(again)):
                if isinstance(kept, Tensor) and _memory(kept) != _memory(new):
                    kept.copy_(new)


def _memory(x: Tensor) -> int:
    """Where the values are; those of a pretended tensor are held by another."""
    return getattr(x, "held", x).data_ptr()


def graphs(counted_as: Callable[[str], AbstractContextManager]) -> list[tuple[Any, str, Any]]:
    """(owner, name, what stands in its place). counted_as(name): within, operations are parts of one kernel."""

    class CUDAGraph:
        record: Recorded

        def replay(self) -> None:
            with counted_as("graph"):
                self.record.replay()

    @contextmanager
    def graph(made: CUDAGraph, **_) -> Iterator[None]:
        with counted_as("recording of a graph"), Recorded() as made.record:
            yield

    return [(torch.cuda, "CUDAGraph", CUDAGraph), (torch.cuda, "graph", graph)]
