"""The processes of a run: World, and join, which makes it; device, check_size, accumulation, choose.

`torchrun` starts the processes and `join` makes a World of them. A plain process is a World of one, whose collectives
give back what they are given, so that the loop has one path.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from mot_gen.errors import InputError, ProcessLost
from mot_gen.files.alone import alone
from mot_gen.recipes.sections import Training

T = TypeVar("T")
STATE_BYTES = 20  # a parameter's weight, gradient, two moments and average, in fp32


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's `rank` of `size`, its device, and its rank among those of its machine.

    control: the group of what the loop agrees on, on CPUs. saving: that of the thread which writes checkpoints.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    machine: int = 1  # processes a machine
    control: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value's sum over all processes; the same everywhere, to the bit."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Each value's largest over all processes."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Sequence[float], by) -> list[float]:
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, by, group=self.control)
        return total.tolist()

    def gather(self, value, group: dist.ProcessGroup | None = None) -> list:
        """Every process's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        found = [None] * self.size
        dist.all_gather_object(found, value, group=group or self.control)
        return found

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def first_then_others(self, make: Callable[[], T]) -> T:
        """What `make` gives on each process; the first has done so before the others begin, and they find its files."""
        if not self.first:
            self.wait()
        with alone():
            made = make()
        if self.first:
            self.wait()
        return made


@contextmanager
def join(training: Training) -> Iterator[World]:
    """The world that torchrun started this process in, left at the end; a world of one in a plain process."""
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    here = device(training.device)
    if size == 1:
        yield World(device=here)
        return
    machine = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    check_size(training, size, machine)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    patience = timedelta(seconds=training.patience)
    backend = "cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=patience)
    control, saving = (dist.new_group(backend="gloo", timeout=patience) for _ in range(2))
    try:
        yield World(rank, size, here, machine, control, saving)
    except RuntimeError as error:
        if not _is_of_processes(error):
            raise
        raise ProcessLost(
            f"process {rank} of {size}: another is gone, or did not answer for {training.patience:g} s; "
            "the newest checkpoint is good, go on with --resume"
        ) from error
    # Not after an error: where a process is gone, taking leave of it would wait for it.
    dist.destroy_process_group()


def _is_of_processes(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone or does not answer."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def device(name: str) -> torch.device:
    """The device of this process for `training.device`: a GPU each, where there are some."""
    if name == "cuda" and (_no_driver() or not torch.cuda.is_available()):
        raise InputError(
            "training.device: cuda was asked for, but no CUDA device is here; say training.device=cpu or auto"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def _no_driver() -> bool:
    """Whether neither NVIDIA's driver nor AMD's is here, so that torch need not be asked."""
    amd = Path("/dev/kfd").exists() or Path("/dev/dxg").exists()  # the latter under Windows
    if sys.platform != "linux" or amd:
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


def check_size(training: Training, size: int, machine: int) -> None:
    """InputError where so many processes cannot share the recipe's batch, or its groups of `hsdp`."""
    group = training.shard or machine
    if training.parallel == "hsdp" and size % group:
        raise InputError(
            f"training.shard: {size} processes cannot form groups of {group}; start a multiple of it, or give another"
        )
    accumulation(training, size)


def accumulation(training: Training, size: int) -> int:
    """Batches that each process takes of an optimizer step: `training.accumulate`, or what `global_rows` leaves.

    InputError where so many rows do not divide into batches on so many processes.
    """
    if not training.global_rows:
        return training.accumulate
    batches, rest = divmod(training.global_rows, training.rows * size)
    if rest or not batches:
        raise InputError(
            f"training.global_rows: {training.global_rows} rows a step do not divide into batches of "
            f"training.rows={training.rows} on {size} processes; start another number, or change one of the two"
        )
    return batches


def choose(training: Training, world: World, parameters: int) -> str:
    """`plain`, `ddp`, `fsdp` or `hsdp`: the recipe's, or, where it says auto, ddp while the state of training takes at
    most half of the device's memory, else fsdp."""
    if world.size == 1:
        return "plain"
    if training.parallel != "auto":
        return training.parallel
    if world.device.type != "cuda":
        return "ddp"
    _, room = torch.cuda.mem_get_info(world.device)
    return "ddp" if 2 * STATE_BYTES * parameters <= room else "fsdp"
