"""Movable: base of dataclasses whose tensors move to a GPU together, in one asynchronous copy. upload: moves values of
the host in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes: where a tensor may begin in a buffer


def upload(values: Sequence | Tensor, device: torch.device | None, dtype: torch.dtype | None = None) -> Tensor:
    """Values of the host as a tensor on a device. The host does not wait for the copy."""
    given = torch.as_tensor(values, dtype=dtype)
    if device is None or given.device == device:
        return given
    if device.type != "cuda" or given.device.type != "cpu":
        return given.to(device)
    return given.pin_memory().to(device, non_blocking=True)


class Movable:
    """Gives a dataclass `.to(device)`, which moves all tensors in it, also those of movable fields."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy on a device. From the CPU to a GPU all tensors travel in one buffer of pinned memory, in one copy for
        which the host does not wait."""
        found = self.tensors()
        if torch.device(device).type != "cuda" or not _on_cpu(found):
            return self.with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        moved = iter(_in_one_copy(found, device))
        return self.with_tensors(lambda tensor: next(moved))

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order in which `with_tensors` replaces them."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.with_tensors(note)
        return found

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A copy in which each tensor is what `change` makes of it."""
        whole: Any = self  # a dataclass, as each of its children is
        changed = {}
        for each in fields(whole):
            if each.init:
                changed[each.name] = _changed(getattr(self, each.name), change)
        return replace(whole, **changed)


def _on_cpu(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Movable):
        return value.with_tensors(change)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return value


def _in_one_copy(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Tensors of the CPU -> the same on a GPU, as parts of one buffer."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    pinned = torch.empty(end, dtype=torch.uint8, pin_memory=True)
    for start, tensor in zip(starts, tensors):
        _part(pinned, start, tensor).copy_(tensor)
    buffer = pinned.to(device, non_blocking=True)
    return [_part(buffer, start, tensor) for start, tensor in zip(starts, tensors)]


def _part(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    """The part of a buffer that begins at a byte and is of the dtype and shape of a tensor."""
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)
