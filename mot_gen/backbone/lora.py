"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) of chosen towers: LowRank, add, merged, save, load.

    y = W x + (alpha / rank) B A x        for the tokens of a chosen tower; W stays as it is, B begins at zero

Adapters stand beside the projections that towers own, or, in a model of one tower, beside all. They are saved as peft
saves adapters of stacked parameters (`LoraConfig.target_parameters`), so `PeftModel.from_pretrained` puts them on the
same model: A as (towers * rank, in), B as (out, rank * towers), zeros for the towers that have none.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mot_gen.backbone.routing import Routing, UntiedLinear, grouped_linear
from mot_gen.errors import InputError, nearest, require

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # peft's, before the names of a model's modules


class LowRank(nn.Module):
    """What is added to a projection for the tokens of some towers. a: (K, rank, in), b: (K, out, rank), for the towers
    `places`, K of `towers`."""

    def __init__(self, layer: UntiedLinear, places: Sequence[int], rank: int, alpha: float):
        super().__init__()
        self.towers, out_features, in_features = layer.weight.shape
        self.places, self.rank, self.alpha = list(places), rank, alpha
        device = layer.weight.device
        self.a = nn.Parameter(torch.empty(len(places), rank, in_features, device=device))
        self.b = nn.Parameter(torch.empty(len(places), out_features, rank, device=device))
        for name, parameter in self.named_parameters(recurse=False):
            if not parameter.is_meta:
                parameter.data.copy_(initial_value(f".{name}", parameter.shape))

    def beside(self, x: Tensor, weight: Tensor, routing: Routing, again: Callable[[], Tensor] | None = None) -> Tensor:
        """x (T, in) sorted by tower -> (T, out): the frozen projection, and what is added. weight: (E, out, in). again:
        makes x anew in the backward pass, so that it is not kept."""
        how = _Adaptation(self.places, self.alpha / self.rank, routing, again)
        return _Adapted.apply(x, weight, self.a, self.b, how)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """x (T, in) sorted by tower -> (T, out), zero for the tokens of other towers."""
        if self.towers == 1:
            return self._of(x, 0)
        if routing.only is not None and not torch.is_grad_enabled():
            return self._of(x, routing.only)
        # While learning every tower is called, with no rows where it has none, so that no gradient is missing.
        return torch.cat([self._of(part, tower) for tower, part in enumerate(x.split(routing.counts))])

    def _of(self, x: Tensor, tower: int) -> Tensor:
        if tower not in self.places:
            return x.new_zeros(len(x), self.b.shape[1])
        k = self.places.index(tower)
        return F.linear(F.linear(x, self.a[k]), self.b[k]) * (self.alpha / self.rank)

    @torch.no_grad()
    def deltas(self) -> Iterator[tuple[int, Tensor]]:
        """(tower, what merging adds to its matrix (out, in))."""
        for place, a, b in zip(self.places, self.a, self.b):
            yield place, (b.float() @ a.float()) * (self.alpha / self.rank)


@dataclass(frozen=True)
class _Adaptation:
    """How an adapter is added: to which of the towers, times which scale. again: makes x anew, or None to keep it."""

    places: Sequence[int]
    scale: float
    routing: Routing
    again: Callable[[], Tensor] | None


class _Adapted(torch.autograd.Function):
    """A frozen projection and its adapter as one operation: y = W x + scale B A x.

    Autograd alone would make zeros for the tokens of other towers, copies of all tokens, and two gradients of x to be
    added. Here the adapter's part is added in place, to its own tokens, and W gets no gradient.
    """

    @staticmethod
    def forward(ctx, x, weight, a, b, how):
        y = grouped_linear(x, weight, how.routing)
        x, a, b = x.to(y.dtype), a.to(y.dtype), b.to(y.dtype)
        rows = _rows_of(how.places, len(weight), how.routing)
        inner = [x[own] @ a[k].t() for k, own in enumerate(rows)]
        for k, own in enumerate(rows):
            y[own].addmm_(inner[k], b[k].t().contiguous(), alpha=how.scale)
        ctx.save_for_backward(None if how.again else x, weight, a, b, *inner)
        ctx.rows, ctx.how = rows, how
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b, *inner = ctx.saved_tensors
        grad, scale = grad.contiguous(), ctx.how.scale
        if x is None:
            x = ctx.how.again().to(grad.dtype)
        # (towers, in, out), so that grouped_linear multiplies by the matrix itself and not by its transpose.
        wanted = ctx.needs_input_grad[0]
        grad_x = grouped_linear(grad, weight.to(grad.dtype).transpose(1, 2), ctx.how.routing) if wanted else None
        grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
        for k, own in enumerate(ctx.rows):
            # A few rows times many columns: a CPU takes three to four times as long the other way round.
            grad_inner = (b[k].t().contiguous() @ grad[own].t()).mul_(scale)  # (rank, T)
            torch.mm(grad_inner, x[own], out=grad_a[k])
            grad_b[k] = ((inner[k].t() @ grad[own]).mul_(scale)).t()
            if grad_x is not None:
                grad_x[own].addmm_(grad_inner.t(), a[k])
        return grad_x, None, grad_a, grad_b, None


def _rows_of(places: Sequence[int], towers: int, routing: Routing) -> list[slice]:
    """Where the tokens of each adapted tower stand in tower order; all of them where one matrix serves all towers."""
    if towers == 1:
        return [slice(None)] * len(places)
    starts = [0, *accumulate(routing.counts)]
    return [slice(starts[place], starts[place + 1]) for place in places]


def add(
    model: nn.Module, towers: Sequence[str], rank: int, alpha: float, layers: Sequence[str] = (), first: int = 0
) -> None:
    """Put adapters beside the projections of these towers, and freeze everything else.

    layers: last names of those that get one, such as qkv and out; all where none is given.
    first: the blocks before this one get none, so that no gradient has to reach them.
    InputError where a model has none of them.
    """
    backbone: Any = model.backbone
    found = _projections(backbone)
    known = {name.rpartition(".")[2] for name in found}
    for name in layers:
        if name not in known:
            raise InputError(f"backbone.lora.layers: {name!r} is no projection that towers own" + nearest(name, known))
    above = [name for name in found if _block_of(name) >= first]
    chosen = [name for name in above if not layers or name.rpartition(".")[2] in layers]
    require(chosen, f"training.frozen_layers: {first} leaves no layer to backbone.lora; lower it")
    _put(model, chosen, towers, rank, alpha)


def _block_of(name: str) -> int:
    """The number of a projection's block, `blocks.N.`; 0 for one that belongs to none."""
    path = name.split(".")
    return int(path[1]) if path[0] == "blocks" else 0


def _put(model: nn.Module, names: Sequence[str], towers: Sequence[str], rank: int, alpha: float) -> None:
    """Freeze a model and put adapters beside the projections of these names."""
    backbone: Any = model.backbone
    places = [backbone.towers.index(tower) for tower in towers]
    model.requires_grad_(False)
    for name in names:
        layer: Any = backbone.get_submodule(name)
        layer.adapter = LowRank(layer, places, rank, alpha)


def _projections(backbone: Any) -> dict[str, UntiedLinear]:
    """The projections that every tower owns, or that a model of one tower has, by name. InputError where there is
    none."""
    if getattr(backbone, "routed", False):
        raise InputError("backbone.lora: experts that are routed take no adapters; give a backbone without experts")
    found: dict[str, UntiedLinear] = {}
    for name, layer in backbone.named_modules():
        if isinstance(layer, UntiedLinear) and len(layer.weight) == len(backbone.towers):
            found[name] = layer
    require(found, "backbone.lora: no projection is owned by towers here; give a backbone with untied projections")
    return found


def adapters(model: nn.Module) -> dict[str, LowRank]:
    """The adapters of a model, by the name of their projection."""
    modules = model.named_modules()
    return {name.removesuffix(".adapter"): module for name, module in modules if isinstance(module, LowRank)}


def initial_value(name: str, shape: Sequence[int]) -> Tensor:
    """The initial value of a parameter of an adapter: A is normal with a standard deviation of 1 / sqrt(in), B is
    zero."""
    return torch.zeros(shape) if name.endswith(".b") else torch.randn(shape) / math.sqrt(shape[-1])


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """A copy whose matrices hold what the adapters add, without adapters; the model itself where it has none."""
    if not adapters(model):
        return model
    model = copy.deepcopy(model)
    for name, adapter in adapters(model).items():
        layer: Any = model.get_submodule(name)
        for place, delta in adapter.deltas():
            layer.weight[place] += delta.to(layer.weight.dtype)
        layer.adapter = None
    return model.requires_grad_(True)


def save(model: nn.Module, folder: Path, base: str | None = None) -> None:
    """Write the adapters as peft does. base: where the model's own weights are. InputError without the extra."""
    LoraConfig = _lora_config()
    folder.mkdir(parents=True, exist_ok=True)
    found, weights = adapters(model), {}
    for name, adapter in found.items():
        stack_a = adapter.a.new_zeros(adapter.towers, *adapter.a.shape[1:])
        stack_b = adapter.b.new_zeros(adapter.towers, *adapter.b.shape[1:])
        stack_a[adapter.places], stack_b[adapter.places] = adapter.a.detach(), adapter.b.detach()
        weights[f"{_PREFIX}{name}.lora_A.weight"] = stack_a.flatten(0, 1).cpu().contiguous()
        weights[f"{_PREFIX}{name}.lora_B.weight"] = stack_b.permute(1, 2, 0).flatten(1).cpu().contiguous()
    first = next(iter(found.values()))
    LoraConfig(
        r=first.rank,
        lora_alpha=first.alpha,
        target_modules=[],
        target_parameters=[f"{name}.weight" for name in found],
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(folder)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def load(model: nn.Module, folder: Path) -> None:
    """Put the adapters of a folder, as `save` or peft wrote it, on a model whose towers have none yet."""
    config, weights = _lora_config().from_pretrained(str(folder)), load_file(folder / WEIGHTS)
    backbone: Any = model.backbone
    known = _projections(backbone)
    named = [path.removesuffix(".weight").removeprefix("backbone.") for path in config.target_parameters]
    for name in named:
        require(name in known, f"{folder}: adapts {name}, which this model has not; give the model it was made for")
    _put(model, named, backbone.towers, config.r, config.lora_alpha)
    for name, adapter in adapters(model).items():
        a, b = (weights.get(f"{_PREFIX}{name}.lora_{each}.weight") for each in "AB")
        if a is None or b is None or a.numel() != adapter.a.numel() or b.numel() != adapter.b.numel():
            raise InputError(f"{folder}: its adapter of {name} does not fit this model; give the model it was made for")
        adapter.a.copy_(a.unflatten(0, (adapter.towers, -1)))
        adapter.b.copy_(b.unflatten(1, (-1, adapter.towers)).permute(2, 0, 1))


def _lora_config():
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise InputError("adapters are written by peft; pip install 'mot-gen[lora]'") from error
    return LoraConfig
