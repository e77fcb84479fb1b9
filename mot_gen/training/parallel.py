"""Many processes that train one model: World, join, arrange, and what a model needs on it.

`torchrun` starts the processes and `join` makes a World of them; a plain process is a World of one, whose collectives
give back what they are given, so that the loop has one path. PyTorch's own engine does the work: `wrap` puts
DistributedDataParallel around a model, or shards it (`fully_shard`, a block at a time) over a mesh:

    ddp     every process holds the model; gradients are summed, once an optimizer step
    fsdp    every process holds 1/N of weights, gradients and optimizer state, and gathers a block when it needs it
    hsdp    fsdp among the processes of a group (a machine's, by default), ddp between groups

Gradients are summed, never averaged: losses are divided by counts over all processes. Parameters stay fp32; `bf16`
gathers and multiplies blocks in bf16, reduces gradients in fp32, and leaves what stands outside of blocks in fp32.
`fill` gives a model its values, each process taking its own share; `gather` puts a sharded model together again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from mot_gen.errors import InputError, Lost
from mot_gen.recipes.sections import Training

if TYPE_CHECKING:  # importing them takes as long as torch itself; see `is_sharded`
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
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
        if self.first:
            made = make()
        self.wait()
        return made if self.first else make()


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
    dist.init_process_group("cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo", timeout=patience)
    control, saving = (dist.new_group(backend="gloo", timeout=patience) for _ in range(2))
    try:
        yield World(rank, size, here, machine, control, saving)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise Lost(
                f"process {rank} of {size}: another is gone, or did not answer for {training.patience:g} s; "
                "the newest checkpoint is good, go on with --resume"
            ) from error
        raise
    # Not after an error: where a process is gone, taking leave of it would wait for it.
    dist.destroy_process_group()


def device(name: str) -> torch.device:
    """The device of this process for `training.device`: a GPU each, where there are some."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device: cuda was asked for and there is none; say training.device=cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def check_size(training: Training, size: int, machine: int) -> None:
    """InputError where so many processes cannot share the recipe's batch, or its groups of `hsdp`."""
    group = training.shard or machine
    if training.parallel == "hsdp" and size % group:
        raise InputError(
            f"training.shard: {size} processes cannot form groups of {group}; start a multiple of it, or give another"
        )
    accumulation(training, size)


def accumulation(training: Training, size: int) -> int:
    """Batches that each process takes of an optimizer step: `training.accumulate`, or what `global_rows` leaves."""
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
    room = torch.cuda.mem_get_info(world.device)[1] if world.device.type == "cuda" else float("inf")
    return "ddp" if 2 * STATE_BYTES * parameters <= room else "fsdp"


# ---------------------------------------------------------------- models


def place(model: nn.Module, world: World, training: Training, kind: str) -> nn.Module:
    """A model on the meta device -> the same on this process's device, its parameters (this process's shares, where
    `kind` shards them) allocated and without values."""
    if kind in ("fsdp", "hsdp"):
        _shard(model, _mesh(world, training, kind), training.precision)
    return allocate(model, world.device)


def allocate(model: M, device: torch.device) -> M:
    """A model on the meta device -> the same on a device, its parameters without values, its buffers with theirs."""
    buffers = dict(model.named_buffers())
    if missing := [name for name, buffer in buffers.items() if buffer.is_meta]:
        raise InputError(f"the model's buffer {missing[0]} has no value; make it on the CPU: models start on meta")
    model.to_empty(device=device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return model


def _mesh(world: World, training: Training, kind: str) -> DeviceMesh:
    if kind == "fsdp":
        return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))
    group = training.shard or world.machine
    return init_device_mesh(world.device.type, (world.size // group, group), mesh_dim_names=("replicate", "shard"))


def _shard(model: nn.Module, mesh: DeviceMesh, precision: str) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import Shard

    shares = mesh["shard"].size()
    # Under autocast the residual stream is fp32 and products are bf16, with or without shards; so inputs are not cast.
    bf16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = bf16 if precision == "bf16" else MixedPrecisionPolicy()
    options: dict[str, Any] = {
        "mesh": mesh,
        "shard_placement_fn": lambda parameter: Shard(sharded_dimension(parameter.shape, shares)),
    }
    for block in cast("Any", model).backbone.blocks:
        fully_shard(block, mp_policy=policy, **options)
    fully_shard(model, **options)
    for module in model.modules():
        if is_fsdp(module):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def sharded_dimension(shape: Sequence[int], shares: int) -> int:
    """The largest dimension that divides into so many shares, else the first: the towers that stand first in untied
    parameters are too few to be shared out."""
    even = [d for d, size in enumerate(shape) if size % shares == 0]
    return max(even, key=lambda d: shape[d]) if even else 0


def wrap(model: nn.Module, world: World, kind: str) -> Callable:
    """What is called in the model's place, so that gradients are summed over all processes."""
    if kind != "ddp":
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    network = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    network.register_comm_hook(None, _summed)
    return network


def _summed(_, bucket):
    # DDP's own hook takes the mean. It wants to see types, not names of types, or none.
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


@contextmanager
def accumulating(network: Callable, last: bool) -> Iterator[None]:
    """Around the forward and backward pass of one of several batches: only the last sums over replicas. Shards are
    summed after each, since what would wait is the gradient of the whole model."""
    if is_fsdp(network):
        network.set_requires_all_reduce(last)
    with nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync():
        yield


# ---------------------------------------------------------------- values


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Whether a tensor is this process's share of a larger one. No tensor is while nobody has imported
    torch.distributed.tensor, which takes as long as torch itself; so this does not import it to ask."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_fsdp(network: object) -> TypeGuard[FSDPModule]:
    """Whether a network is sharded by `fully_shard`; asked as in `is_sharded`."""
    module = sys.modules.get("torch.distributed.fsdp")
    return module is not None and isinstance(network, module.FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor, in the same memory; a whole tensor is its own share."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def first_index(tensor: Tensor) -> int:
    """Where along the first dimension this process's share begins."""
    if not is_sharded(tensor):
        return 0
    mesh = tensor.device_mesh
    shares = [mesh.size(axis) for axis, placement in enumerate(tensor.placements) if placement.is_shard(0)]
    return mesh.get_local_rank("shard") * -(-len(tensor) // shares[0]) if shares else 0


@torch.no_grad()
def fill(model: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Give each parameter its value, of which a sharded one takes its own share."""
    parameters = dict(model.named_parameters())
    for name, value in values:
        parameter = parameters[name]
        if is_sharded(parameter):
            from torch.distributed.tensor import distribute_tensor

            mesh = parameter.device_mesh
            value = distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)
        local(parameter).copy_(local(value))


def reshard(model: nn.Module) -> None:
    """Let go of what a forward pass without a backward pass gathered, which would be taken for the weights."""
    if is_fsdp(model):
        model.reshard()


@torch.no_grad()
def gather(model: nn.Module, whole: M, world: World) -> M | None:
    """On the first process `whole`, a copy of the model on the meta device, filled; None on the others. One parameter
    is gathered at a time."""
    if world.first:
        allocate(whole, torch.device("cpu"))
    own = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        value = parameter.full_tensor() if is_sharded(parameter) else parameter
        if world.first:
            own[name].copy_(value)
    return whole if world.first else None
