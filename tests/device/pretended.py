"""A pretended CUDA device for machines without one: `with pretended_cuda() as launches: ...`. For tests alone.

Tensors that are put on "cuda" become `PretendedTensor`s. They say that they are on cuda:0, and compute on the CPU, with
real values and gradients. Every operation passes through one dispatch mode, which

- raises `DeviceMismatch` where CUDA would refuse: a CPU tensor of one or more dimensions beside one on the device, a
  generator of another device, a grouped product that breaks the rules of the CUDA kernel;
- counts kernels and host waits (`launches.Launches`).

It says nothing of time, of memory, or of the rounding of CUDA's kernels. A fused SDPA counts as one kernel forward; its
backward pass counts as its parts. FlexAttention is computed densely. A graph that is replayed counts as one kernel
(`recorded.py`). Inference mode is no_grad. Threads and other processes do not see the device.

How it works: to C++ these tensors are on `meta` with CUDA's dispatch keys, because autograd would ask the driver for a
stream if they were on cuda. So a tensor that C++ makes on `meta` is one for the device. Python's own use of `meta` is
told apart by a function mode, which also does autocast again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from driver import as_stored, replaced
from kernels import ON_DEVICE, DeviceMismatch
from launches import INDEXING, Launches, operation_name
from recorded import graphs
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
RealGenerator = torch.Generator
T = torch.Tensor

# What autocast computes in the low precision, and what in fp32.
LOW = {F.linear, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, F.conv1d, F.conv2d}
LOW |= {F.conv_transpose1d, F.conv_transpose2d, F.scaled_dot_product_attention, T.matmul, T.mm, T.bmm, T.__matmul__}
HIGH = {F.softmax, torch.softmax, T.softmax, F.log_softmax, T.log_softmax, F.cross_entropy, F.layer_norm, F.group_norm}
HIGH |= {F.mse_loss, torch.exp, T.exp, torch.pow, T.pow, T.square, T.cumsum, torch.sum, T.sum, T.rsqrt, T.logsumexp}


class PretendedTensor(torch.Tensor):
    """A tensor that says it is on the GPU. held: its values, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, held: Tensor):
        meta = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
        return torch.Tensor._make_subclass(cls, meta, False, device_for_backend_keys=CUDA)

    def __init__(self, held: Tensor):
        self.held = held

    def get_device(self) -> int:
        return 0

    def tolist(self):
        return self.cpu().tolist()

    def record_stream(self, stream) -> None:
        """There is one stream."""

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return _Device.active.call(func, args, kwargs or {})


class _Generator(RealGenerator):
    """`torch.Generator` that may claim to be one of the device."""

    def __new__(cls, device="cpu"):
        made = RealGenerator.__new__(cls, "cpu")
        made.claimed = CUDA if torch.device(device).type == "cuda" else torch.device(device)
        return made

    def __init__(self, device="cpu"):
        pass

    device = property(lambda self: self.claimed)


class _Device(TorchDispatchMode):
    """The dispatch mode: computes on held values, checks devices, counts."""

    active: Any = None

    def __init__(self, launches: Launches):
        super().__init__()
        self.launches = launches
        # What the function mode knows of the call at hand: the device of its generator, whether Python itself said
        # meta, and whether the operation is a part of one that is fused.
        self.generator: torch.device | None = None
        self.meta = False
        self.fused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return self.call(func, args, kwargs or {})

    def call(self, func, args: tuple, kwargs: dict):
        """One operation of ATen."""
        ours: list[Tensor] = []
        others: list[Tensor] = []
        for tensor in _tensors_in((*args, *kwargs.values())):
            (ours if isinstance(tensor, PretendedTensor) else others).append(tensor)
        wanted = self._wanted(kwargs, ours, others)
        on_device = bool(ours) if wanted is None else wanted.type == "cuda"
        if not ours and not on_device:
            return func(*args, **kwargs)
        if wanted is not None:
            kwargs = {**kwargs, "device": wanted}
        self._check(operation_name(func), args, ours, others, kwargs)
        if not self.fused:
            self.launches.operation(func, args, kwargs)
        return self._wrapped(self._computed(func, args, kwargs), func, args, ours, on_device)

    def as_one_kernel(self, name: str, function: Callable) -> Callable:
        """A function that counts as one kernel, whatever it calls."""

        def call(*args, **kwargs):
            with self.counted_as(name):
                return function(*args, **kwargs)

        return call

    @contextmanager
    def counted_as(self, name: str) -> Iterator[None]:
        """Within, operations are parts of one kernel."""
        before, self.fused = self.fused, True
        if not before:
            self.launches.kernel(name)
        try:
            yield
        finally:
            self.fused = before

    def _wanted(self, kwargs: dict, ours: list, others: list) -> torch.device | None:
        """The device that an operation makes its result on, if it says one."""
        wanted = kwargs.get("device")
        if wanted is None or wanted.type != "meta" or self.meta:
            return wanted
        # C++ says meta, and means the device.
        return CUDA if ours or not others or others[0].device.type == "cpu" else wanted

    def _computed(self, func, args: tuple, kwargs: dict):
        """The result on the CPU."""
        args, kwargs = _each((args, kwargs), lambda x: x.held if isinstance(x, PretendedTensor) else x)
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        return ON_DEVICE.get(operation_name(func), func)(*args, **kwargs)

    def _wrapped(self, result, func, args: tuple, ours: list, on_device: bool):
        """The result as tensors of the device. An operation in place gives back the tensor that it was given."""
        owner = {id(x.held): x for x in ours}

        def wrapped(out):
            if not isinstance(out, Tensor) or not on_device:
                return out.clone() if id(out) in owner else out
            outer = owner[id(out)] if id(out) in owner else PretendedTensor(out)
            if outer.shape != out.shape:  # after `squeeze_` and the like the wrapper follows
                with torch._C._DisableTorchDispatch():
                    func(outer, *args[1:])
            return outer

        return _each(result, wrapped)

    def _check(self, name: str, args: tuple, ours: list, others: list, kwargs: dict) -> None:
        """Refuse what CUDA refuses."""
        wrong_generator = self.generator is not None and self.generator.type != "cuda"
        if kwargs.get("generator") is not None and wrong_generator:
            raise DeviceMismatch(f"{name}: a generator on {self.generator} for a tensor on cuda:0")
        strangers = [x for x in others if x.device.type != "meta"]
        if not ours or not strangers or name in ("copy_", "_to_copy"):
            return
        if name in INDEXING and isinstance(args[0], PretendedTensor):  # CUDA takes indices that are on the CPU
            allowed = {id(index) for index in args[1] if index is not None}
            strangers = [x for x in strangers if id(x) not in allowed]
        if any(x.dim() for x in strangers) or (strangers and name.startswith("_fused_adam")):
            raise DeviceMismatch(f"{name}: tensors of {[tuple(x.shape) for x in strangers]} on the CPU beside cuda:0")


class _Functions(TorchFunctionMode):
    """Tells the device what Python said: meta, a generator, SDPA. Redoes autocast."""

    def __init__(self, device: _Device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        args, kwargs = tuple(map(_in_full, args)), {name: _in_full(value) for name, value in kwargs.items()}
        if func is Tensor.pin_memory:
            return _pinned(args[0].clone())
        if kwargs.get("pin_memory"):
            return _pinned(func(*args, **{**kwargs, "pin_memory": False}))
        attends = func is F.scaled_dot_product_attention and isinstance(args[0], PretendedTensor)
        run = self._attention if attends else func
        with self._told(args, kwargs):
            if not torch.is_autocast_enabled("cuda") or func not in LOW | HIGH:
                return run(*args, **kwargs)
            dtype = torch.get_autocast_dtype("cuda") if func in LOW else torch.float32
            args, kwargs = _each((args, kwargs), lambda x: x.to(dtype) if _casts(x) else x)
            with torch.autocast("cuda", enabled=False):
                return run(*args, **kwargs)

    @contextmanager
    def _told(self, args: tuple, kwargs: dict) -> Iterator[None]:
        device, generator = self.device, kwargs.get("generator")
        before = device.meta, device.generator
        device.meta = any(isinstance(x, torch.device) and x.type == "meta" for x in [*args, *kwargs.values()])
        if generator is not None:
            device.generator = generator.device
        try:
            yield
        finally:
            device.meta, device.generator = before

    def _attention(self, *args, **kwargs) -> Tensor:
        with self.device.counted_as("scaled_dot_product_attention"):
            return as_stored(F.scaled_dot_product_attention(*args, **kwargs))


def _tensors_in(values: Iterable) -> Iterator[Tensor]:
    """All tensors in arguments; operations take them alone and in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


def _each(value: Any, change: Callable) -> Any:
    """Arguments or results with all that is no list, tuple or dict changed."""
    if isinstance(value, (list, tuple)):
        return type(value)([_each(item, change) for item in value])
    if isinstance(value, dict):
        return {name: _each(item, change) for name, item in value.items()}
    return change(value)


def _pinned(x: Tensor) -> Tensor:
    """Mark a tensor of the CPU as one in pinned memory. Copies from other memory make the host wait."""
    x.pinned = True  # type: ignore[attr-defined]
    return x


def _casts(x) -> bool:
    return isinstance(x, PretendedTensor) and x.dtype in FLOATS


def _in_full(x):
    """cuda -> cuda:0, for which C++ does not ask the driver which device is the current one."""
    if isinstance(x, str) and x in ("cuda", "cuda:0", "meta"):
        x = torch.device(x)
    return CUDA if isinstance(x, torch.device) and x.type == "cuda" else x


@contextmanager
def pretended_cuda() -> Iterator[Launches]:
    """Within, there is one CUDA device. Yields what counts its kernels and waits."""
    launches = Launches()
    device = _Device(launches)
    before = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        torch._C._set_only_lift_cpu_tensors(True)
        found = [*replaced(PretendedTensor, _Generator, device.as_one_kernel), *graphs(device.counted_as)]
        for owner, name, value in found:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(mock.patch.object(_Device, "active", device))
        stack.enter_context(device)
        stack.enter_context(_Functions(device))
        yield launches
