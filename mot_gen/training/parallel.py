"""A model on many processes: place, wrap, accumulating; the shares of its tensors: fill, gather, local, first_index.

PyTorch's own engine does the work: `wrap` puts DistributedDataParallel around a model, or `place` shards it
(`fully_shard`, a block at a time) over a mesh:

    ddp     every process holds the model; gradients are summed, once an optimizer step
    fsdp    every process holds 1/N of weights, gradients and optimizer state, and gathers a block when it needs it
    hsdp    fsdp among the processes of a group (a machine's, by default), ddp between groups

Gradients are summed, never averaged: losses are divided by counts over all processes. Parameters stay fp32; `bf16`
gathers and multiplies blocks in bf16, reduces gradients in fp32, and leaves what stands outside of blocks in fp32.
`fill` gives a model its values, each process taking its own share; `gather` puts a sharded model together again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from mot_gen.errors import InputError
from mot_gen.recipes.sections import Training
from mot_gen.training.world import World

if TYPE_CHECKING:  # importing them takes as long as torch itself; see `is_sharded`
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

M = TypeVar("M", bound="nn.Module")


def place(model: nn.Module, world: World, training: Training, kind: str) -> nn.Module:
    """A model on the meta device -> the same on this process's device, its parameters (this process's shares, where
    `kind` shards them) allocated and without values."""
    if kind in ("fsdp", "hsdp"):
        _shard(model, _mesh(world, training, kind), training.precision)
    return allocate(model, world.device)


def allocate(model: M, device: torch.device) -> M:
    """A model on the meta device -> the same on a device, its parameters without values, its buffers with theirs."""
    buffers = dict(model.named_buffers())
    for name, buffer in buffers.items():
        if buffer.is_meta:
            raise InputError(f"the model's buffer {name} has no value; make it on the CPU: models start on meta")
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
    even = [dimension for dimension, size in enumerate(shape) if size % shares == 0]
    return max(even, key=lambda dimension: shape[dimension], default=0)


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
    if last or not isinstance(network, DistributedDataParallel):
        yield
        return
    with network.no_sync():
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
    """The index along the first dimension at which this process's share begins."""
    if not is_sharded(tensor):
        return 0
    mesh = tensor.device_mesh
    for axis, placement in enumerate(tensor.placements):
        if placement.is_shard(0):
            return mesh.get_local_rank("shard") * math.ceil(len(tensor) / mesh.size(axis))
    return 0


@torch.no_grad()
def fill(model: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Give each parameter its value, of which a sharded one takes its own share."""
    parameters = dict(model.named_parameters())
    for name, value in values:
        parameter = parameters[name]
        if is_sharded(parameter):
            value = _shared_out(value, parameter)
        local(parameter).copy_(local(value))


def _shared_out(value: Tensor, like: DTensor) -> Tensor:
    """A whole tensor, which every process has -> this process's share, as that of a parameter."""
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, like.placements, src_data_rank=None)


def reshard(model: nn.Module) -> None:
    """Let go of what a forward pass without a backward pass gathered, which would be taken for the weights."""
    if is_fsdp(model):
        model.reshard()


@torch.no_grad()
def gather(model: nn.Module, whole: M, world: World) -> M | None:
    """Gather a model into `whole`, a copy of it on the meta device, on the first process; None on the others. One
    parameter is gathered at a time."""
    if world.first:
        allocate(whole, torch.device("cpu"))
    own = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        value = parameter.full_tensor() if is_sharded(parameter) else parameter
        if world.first:
            own[name].copy_(value)
    if not world.first:
        return None
    return whole
