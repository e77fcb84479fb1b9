"""LayersOnDisk: a backbone whose layers are read from the disk while it runs, of which two at most are in memory.

While one layer computes, a thread reads the next. What a generated token costs is then what reading all layers costs,
unless the system keeps the file in memory that nobody else wants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError

Weights = dict[str, Tensor]


class LayersOnDisk:
    """blocks: the layers, whose parameters are on the meta device while they are not in use. read(number) -> the
    weights of a layer, by the names of its parameters; it is called in a thread."""

    def __init__(self, blocks: Sequence[nn.Module], read: Callable[[int], Weights]):
        self.blocks, self._read = blocks, read
        self._empty = [dict(block.named_parameters()) for block in blocks]
        self._reader = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[Weights]] | None = None
        self._held: int | None = None

    def bring(self, number: int) -> None:
        """Have a layer in memory, forget the one before it, and begin to read the one that comes next."""
        if torch.is_grad_enabled():
            raise InputError(
                "the model's layers are on the disk (weights='disk'), where they generate and do not learn"
            )
        if self._held == number:
            return
        if self._held is not None:
            _assign(self.blocks[self._held], self._empty[self._held])
        if self._ahead is not None and self._ahead[0] == number:
            weights = self._ahead[1].result()
        else:
            weights = self._read(number)
        _assign(self.blocks[number], {name: nn.Parameter(value, False) for name, value in weights.items()})
        self._held = number
        following = (number + 1) % len(self.blocks)
        self._ahead = (following, self._reader.submit(self._read, following))


def _assign(block: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    """Put parameters in their places in a layer."""
    for name, parameter in parameters.items():
        owner, _, leaf = name.rpartition(".")
        setattr(block.get_submodule(owner), leaf, parameter)
