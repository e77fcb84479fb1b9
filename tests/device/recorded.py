"""What a CUDA graph does, on a CPU: Recorded keeps the operations of a pass and runs them again over the same memory.

Like a graph, it knows nothing of Python: whatever the host computed is as it was when the pass was recorded. So a
replay gives the right values only if all that changes is in tensors that are renewed in place.
"""

from __future__ import annotations

from launches import RESULT_ON_HOST, operation_name
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorded(TorchDispatchMode):
    """`with Recorded() as graph: ...` records, and `graph.replay()` runs it again. RuntimeError where the host reads a
    value, which a graph cannot do."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if operation_name(func) in RESULT_ON_HOST:
            raise RuntimeError(f"{operation_name(func)}: the host reads a value while a graph is recorded")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for kept, new in zip(tree_leaves(result), tree_leaves(again)):
                if isinstance(kept, Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)
