"""Where is measured and how large: Setting, with its clock; and Skipped: why a measurement was left out."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


class Skipped(Exception):
    """Raised by a measurement that has no meaning here; its words are the reason."""


@dataclass(frozen=True)
class Setting:
    """quick: tiny sizes, which test the command and measure nothing of use."""

    device: torch.device
    quick: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: bf16, and fp32 on a CPU."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def pick(self, real: T, tiny: T) -> T:
        """The real size, or the tiny one of a quick run."""
        return tiny if self.quick else real

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give memory that nothing holds back to the device, and begin to watch its peak anew."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def alternate(self, actions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds by the wall clock of each action, taken in turn; the first calls only warm up."""
        seconds: dict[str, list[float]] = {name: [] for name in actions}
        warming, repeats = self.pick((3, 10), (0, 1))
        for name, action in [*actions.items()] * (warming + repeats):
            seconds[name].append(self._seconds(action))
        return {name: statistics.median(values[warming:]) for name, values in seconds.items()}

    def _seconds(self, action: Callable[[], object]) -> float:
        self.wait()
        began = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - began
