"""What a device is asked to do: Launches counts kernels and host waits, and the place in the project of each.

A *wait* is an operation after which the host stands still until the device has finished: reading a value, an operation
whose result has a size that only the device knows, and a copy that is not asynchronous.
"""

from __future__ import annotations

import sys
from collections import Counter

import torch
from torch import Tensor

PROJECT = ("/mot_gen/", "/pipelines/", "/eval/", "/tokenizers/")  # folders whose lines are named

# Their kernels bring a size or a value to the host.
RESULT_ON_HOST = {
    "_local_scalar_dense",
    "_linalg_eigh",
    "_linalg_svd",
    "_unique2",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "linalg_eig",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
# They change what is said of memory, or allocate it, and launch nothing.
NO_KERNEL = {
    "_local_scalar_dense",
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "is_pinned",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
}
INDEXING = {"_index_put_impl_", "index", "index_put", "index_put_"}


class Launches:
    """Counters. waits: by (kind, operation, place). kernels: by operation. places: of kernels, by line."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str, str]] = Counter()
        self.kernels: Counter[str] = Counter()
        self.places: Counter[str] = Counter()

    def clear(self) -> None:
        """Count from 0 again."""
        for counter in (self.waits, self.kernels, self.places):
            counter.clear()

    @property
    def waited(self) -> int:
        """How often the host waited. Asynchronous copies are no waits."""
        return sum(times for (kind, *_), times in self.waits.items() if kind != "asynchronous copy")

    @property
    def launched(self) -> int:
        """How many kernels were launched."""
        return sum(self.kernels.values())

    def report(self, most: int = 25) -> str:
        """All counters as text, the largest counts first."""
        lines = [f"{self.launched} kernels, {self.waited} waits"]
        for name in ("waits", "kernels", "places"):
            for key, times in getattr(self, name).most_common(most):
                lines.append(f"  {name} {times:6d}  {key}")
        return "\n".join(lines)

    def kernel(self, name: str) -> None:
        """A kernel was launched."""
        self.kernels[name] += 1
        self.places[place()] += 1

    def operation(self, func, args: tuple, kwargs: dict) -> None:
        """Note one operation of the device, or between it and the host."""
        name = operation_name(func)
        kind = kind_of_wait(name, args, kwargs)
        if kind is not None:
            self.waits[kind, name, place()] += 1
        if name not in NO_KERNEL and not func.is_view:
            self.kernel(name)


def operation_name(func) -> str:
    """Of an ATen operation, without its namespace and overload."""
    return func._schema.name.removeprefix("aten::")


def kind_of_wait(name: str, args: tuple, kwargs: dict) -> str | None:
    """What the host waits for; "asynchronous copy" where it goes on, None for all that is no copy and no wait."""
    copied = _copied(name, args, kwargs)
    if copied is not None:
        source, target = copied
        if source == target:
            return None
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
        if asynchronous and (source == "cuda" or hasattr(args[0], "pinned")):
            return "asynchronous copy"
        return "copy from the device" if source == "cuda" else "copy to the device"
    if name in RESULT_ON_HOST:
        return "result on the host"
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return "result on the host"
    if name in INDEXING and any(_is_mask(index) for index in args[1]):
        return "boolean index"
    return None


def _copied(name: str, args: tuple, kwargs: dict) -> tuple[str, str] | None:
    """The kinds of device between which an operation copies, or None."""
    if name == "copy_":
        return args[1].device.type, args[0].device.type
    if name == "_to_copy":
        source = args[0].device.type
        return source, kwargs["device"].type if kwargs.get("device") is not None else source
    return None


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def place() -> str:
    """The innermost two lines of the project that led here."""
    frame, found = sys._getframe(1), []
    while frame is not None and len(found) < 2:
        path = frame.f_code.co_filename
        if any(part in path for part in PROJECT) and "site-packages" not in path and "/tests/" not in path:
            found.append(f"{'/'.join(path.rsplit('/', 2)[-2:])}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(found) or "(autograd or the caller)"
