"""Growth: fewer experts (DeepSpeed MoE, arXiv 2109.10465): those of each pool that tokens take most often; usage.

Usage is counted over batches in Python (`usage`), or given as the numbers of the experts to keep. Pruning an expert
that no token takes changes nothing but the softmax that it was part of; with `weight: renormalised` or `one`, nothing
at all.

Shapes: E experts of a pool, K kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mot_gen.backbone.experts.moe import MixtureOfExperts
from mot_gen.errors import InputError, require
from mot_gen.growth import base
from mot_gen.model import MultimodalModel
from mot_gen.sequence import PackedBatch

Kept = Sequence[Sequence[Sequence[int]]]  # of each layer of experts, each pool, the numbers of those that stay


@dataclass(frozen=True)
class Growth(base.Growth):
    """keep: the numbers of the experts that stay, in every pool of every layer."""

    keep: Sequence[int] = (0,)

    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        return prune(model, [[self.keep] * len(layer.experts) for layer in _layers_of_experts(model)])


def _layers_of_experts(model: MultimodalModel) -> list[MixtureOfExperts]:
    return [block.ffn for block in base.blocks_of(model) if block.routed]


@torch.no_grad()
def prune(model: MultimodalModel, keep: Kept) -> MultimodalModel:
    """A model with fewer experts: those of each pool that are to stay, as many in all of them."""
    layers = _layers_of_experts(model)
    number = model.backbone.config.experts
    if not layers or not isinstance(number, int):
        raise InputError("--grow pruned: is for one number of experts in every pool, backbone.experts")
    made = base.rebuild(model, experts=_kept(keep, number))
    for own, parent, pools in zip(made.backbone.blocks, layers, keep):
        first = torch.arange(len(pools))[:, None] * number  # where a pool's experts stand in the stack
        _take(own.ffn, parent, (first + torch.tensor(pools)).flatten())
    return made


def _kept(keep: Kept, number: int) -> int:
    """How many experts stay in each pool of `number`; InputError where that differs, or one is not there."""
    pools = list(chain.from_iterable(keep))
    there = set(range(number))
    alike = len(set(map(len, pools))) == 1
    fits = alike and there.issuperset(chain.from_iterable(pools))
    require(fits, f"keep: must name as many experts in each pool, from 0 to {number - 1}")
    return len(pools[0])


def _take(own: Any, parent: MixtureOfExperts, rows: Tensor) -> None:
    """Copy the experts in these rows of the parent's stack; a single one has no router."""
    source = dict(parent.feed_forward.named_parameters())
    several = isinstance(own, MixtureOfExperts)
    into = own.feed_forward if several else own
    for name, parameter in into.named_parameters():
        parameter.copy_(source[name][rows])
    if several and own.router is not None and parent.router is not None:
        own.router.copy_(parent.router[rows])


@torch.no_grad()
def usage(model: MultimodalModel, batches: Iterable[PackedBatch]) -> list[list[list[int]]]:
    """How often tokens of the batches took each expert: for each layer of experts, each pool and each expert."""
    layers = _layers_of_experts(model)
    counts = [torch.zeros(sum(layer.experts), dtype=torch.long) for layer in layers]
    hooks = [layer.feed_forward.register_forward_hook(_adds(to)) for layer, to in zip(layers, counts)]
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    return [_by_pool(total, layer) for total, layer in zip(counts, layers)]


def _by_pool(total: Tensor, layer: MixtureOfExperts) -> list[list[int]]:
    """Numbers of all experts of a layer, by its pools."""
    return [pool.tolist() for pool in total.split(layer.experts)]


def _adds(total: Tensor) -> Any:
    """A hook of stacked experts, which adds up how many tokens each was given."""

    def count(module: Any, inputs: Any, output: Any) -> None:
        total.add_(torch.tensor(inputs[1].counts))

    return count
