"""Accumulator: the torchmetrics.Metric below every metric here. States merge by a stated function, of any shape.

torchmetrics stacks what the ranks send, which fails when a rank saw nothing or when sizes differ, and it keeps states
in the default dtype. Here a state is a float64 (or uint8) tensor, or a list of such, with a `merge(list of tensors)`;
the same function merges batches, ranks and `merge_state`, so one process and many give the same number.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics.metric import Metric, jit_distributed_available
from torchmetrics.utilities.distributed import gather_all_tensors

from mot_gen.errors import InputError, one_line
from mot_gen.files.alone import is_alone


def concat_rows(parts: Sequence[Tensor]) -> Tensor:
    """Tables of (n_i, k) one below the other; empty ones may have any number of columns. None at all gives (0, 0)."""
    parts = list(parts)
    filled = [part for part in parts if part.shape[0]]
    if filled:
        return torch.cat(filled)
    return parts[0] if parts else torch.zeros(0, 0, dtype=torch.float64)


def concat_bytes(parts: Sequence[Tensor]) -> Tensor:
    """uint8 strings one after the other."""
    return torch.cat([torch.zeros(0, dtype=torch.uint8), *(part.cpu() for part in parts)])


def are_together() -> bool:
    """Whether there are other processes whose states a metric takes together with its own."""
    return not is_alone() and jit_distributed_available()


class Accumulator(Metric):
    """A torchmetrics.Metric whose `compute()` returns a `MetricResult` and whose states merge as stated.

    `takes` says what `update` is given, so that one contract test can feed every metric: "features" (features, real),
    "texts" (predictions, references), "image pairs" (images, originals), and so on.
    """

    full_state_update = False
    is_differentiable = False
    takes: str

    def __init__(self, **kwargs: Any):
        """kwargs: those of `torchmetrics.Metric`. InputError for others, with those that this metric takes."""
        try:
            super().__init__(**{"distributed_available_fn": are_together, **kwargs})
        except ValueError as error:
            own = [name for name in inspect.signature(type(self)).parameters if name != "kwargs"]
            raise InputError(f"{type(self).__name__}: {one_line(error)}; it takes {', '.join(own)}") from None

    def add_tensor(self, name: str, empty: Tensor, merge: Callable[[list[Tensor]], Tensor]):
        """A state of one tensor that starts as `empty`."""
        self.add_state(name, default=empty, dist_reduce_fx=merge)

    def add_rows(self, *names: str):
        """States that are tables of rows, appended with `append`, read with `rows`."""
        for name in names:
            self.add_state(name, default=[], dist_reduce_fx=concat_rows)

    def append(self, name: str, rows: Tensor):
        """Append (n, k) float64 rows to a table."""
        getattr(self, name).append(rows.detach().to(self.device, torch.float64))

    def add_items(self, name: str):
        """A state that holds JSON values (strings, lists of them), as bytes that ranks can exchange."""
        self.add_state(name, default=[], dist_reduce_fx=concat_bytes)

    def append_items(self, name: str, items: Sequence[Any]):
        """Append JSON values."""
        if not items:
            getattr(self, name).append(concat_bytes([]))
            return
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        encoded = bytearray(lines.encode("utf-8", "surrogatepass"))
        getattr(self, name).append(torch.frombuffer(encoded, dtype=torch.uint8))

    def kept_items(self, name: str) -> list[Any]:
        """All JSON values so far; after a sync, of all ranks in their order."""
        lines = concat_bytes(getattr(self, name)).numpy().tobytes().decode("utf-8", "surrogatepass")
        return [json.loads(line) for line in lines.split("\n") if line]

    def rows(self, name: str) -> Tensor:
        """(N, k) float64: all rows of a table so far; after a sync, of all ranks in their order."""
        return concat_rows(getattr(self, name))

    def _merges(self) -> dict[str, Callable[[Sequence[Tensor]], Tensor]]:
        """The merge function of each state; torchmetrics would also allow names of its own."""
        return cast("dict[str, Callable[[Sequence[Tensor]], Tensor]]", self._reductions)

    def _sync_dist(self, dist_sync_fn=gather_all_tensors, process_group=None):
        group = process_group or self.process_group
        for name, merge in self._merges().items():
            value = getattr(self, name)
            if isinstance(value, list):
                together = dist_sync_fn(merge(value).to(self.device), group=group)
                setattr(self, name, [merge(together)])
            else:
                setattr(self, name, merge(dist_sync_fn(value, group=group)))

    def _reduce_states(self, incoming_state):
        for name, merge in self._merges().items():
            first, then = incoming_state[name], getattr(self, name)
            if isinstance(first, list):
                setattr(self, name, first + then)
            else:
                setattr(self, name, merge([first, then]))
