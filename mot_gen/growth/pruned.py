"""Growth: fewer experts (DeepSpeed MoE, arXiv 2109.10465): those of each pool that tokens take most often; usage.

Usage is counted over batches in Python (`usage`), or given as the numbers of the experts to keep. Pruning an expert
that no token takes changes nothing but the softmax that it was part of; with `weight: renormalised` or `one`, nothing
at all.

Shapes: E experts of a pool, K kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.backbone.moe import MixtureOfExperts
from mot_gen.errors import InputError
from mot_gen.growth import parents
from mot_gen.model import MultimodalModel
from mot_gen.sequence import PackedBatch


@dataclass(frozen=True)
class Growth(parents.Growth):
    """keep: the numbers of the experts that stay, in every pool of every layer."""

    keep: Sequence[int] = (0,)

    def grow(self, model: MultimodalModel, other: MultimodalModel | None = None) -> MultimodalModel:
        blocks = parents.blocks_of(model)
        return pruned(model, [[list(self.keep)] * len(block.experts) for block in blocks if block.routed])


@torch.no_grad()
def pruned(model: MultimodalModel, keep: Sequence[Sequence[Sequence[int]]]) -> MultimodalModel:
    """keep: for each layer of experts and each of its pools, the numbers of those that stay, as many in all."""
    layers = [block.ffn for block in parents.blocks_of(model) if block.routed]
    number = model.backbone.config.experts
    counts = {len(pool) for layer in keep for pool in layer}
    if not layers or not isinstance(number, int):
        raise InputError("--grow pruned: is for one number of experts in every pool, backbone.experts")
    if len(counts) != 1 or any(not 0 <= e < number for layer in keep for pool in layer for e in pool):
        raise InputError(f"keep: must name as many experts in each pool, from 0 to {number - 1}")
    made = parents.rebuilt(model, experts=counts.pop())
    kept_layers = [block.ffn for block in made.backbone.blocks]
    for own, parent, pools in zip(kept_layers, layers, keep):
        rows = torch.tensor([place * number + expert for place, pool in enumerate(pools) for expert in pool])
        _take(own, parent, rows)
    return made


def _take(own: Any, parent: MixtureOfExperts, rows: Tensor) -> None:
    """Copy the experts in these rows of the parent's stack; a single one has no router."""
    source = dict(parent.feed_forward.named_parameters())
    into = own.feed_forward if isinstance(own, MixtureOfExperts) else own
    for name, parameter in into.named_parameters():
        parameter.copy_(source[name][rows])
    if isinstance(own, MixtureOfExperts) and own.router is not None and parent.router is not None:
        own.router.copy_(parent.router[rows])


@torch.no_grad()
def usage(model: MultimodalModel, batches: Iterable[PackedBatch]) -> list[list[list[int]]]:
    """How often tokens of the batches took each expert: for each layer of experts, each pool and each expert."""
    layers = [block.ffn for block in parents.blocks_of(model) if block.routed]
    counts = [torch.zeros(sum(layer.experts), dtype=torch.long) for layer in layers]
    hooks = []
    for layer, total in zip(layers, counts):

        def count(module, inputs, output, total=total):
            total += torch.tensor(inputs[1].counts)

        hooks.append(layer.feed_forward.register_forward_hook(count))
    try:
        for batch in batches:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    split = zip(counts, layers)
    return [[pool.tolist() for pool in total.split(layer.experts)] for total, layer in split]
