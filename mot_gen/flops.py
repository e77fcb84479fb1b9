"""Counting: Parameters, count_parameters (active and total), learned_parameters; forward_flops of a packed batch, and
by_module.

A multiply and an add are two FLOPs. Matrix products, convolutions, attention and scans are counted, by the backbone or
patch layer that has it; norms and activations, below 1% at any real size, are not. Training is three forwards, as the
backward pass computes two products for each of the forward's.
"""

from __future__ import annotations

from dataclasses import dataclass

from mot_gen.model import MultimodalModel
from mot_gen.sequence import PackedBatch


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has.

    total: all that is stored. active: what one text token passes through (arXiv 2411.04996), embeddings, head and
    one tower of what is untied; patch and token layers of other modalities do not count.
    """

    active: int
    total: int


def count_parameters(model: MultimodalModel) -> Parameters:
    """Works on a model on the meta device too, so that a size is known before it is allocated."""
    total = sum(p.numel() for p in model.parameters())
    others = (*model.patch_layers.parameters(), *model.token_layers.parameters())
    layers = sum(p.numel() for p in others)
    idle = sum(p.numel() for p in model.backbone.parameters()) - model.backbone.active_parameters()
    return Parameters(active=total - idle - layers, total=total)


def learned_parameters(model: MultimodalModel) -> int:
    """How many parameters get gradients."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def forward_flops(model: MultimodalModel, batch: PackedBatch, executed: bool = False) -> int:
    """FLOPs of one forward pass over all slots of a batch, padding included since it is computed too. executed: as it
    is run here, and not by kernels that skip what parts of the backbone leave out."""
    return sum(by_module(model, batch, executed).values())


def by_module(model: MultimodalModel, batch: PackedBatch, executed: bool = False) -> dict[str, int]:
    """`forward_flops` of the backbone, the head and each modality's own layers; the embedding is looked up."""
    counted = getattr(model.backbone, "executed_flops", None) if executed else None
    tokens = batch.layout.modality.numel()
    apart = {
        f"{name} tokens": 2 * (layers.input_weights * tokens + layers.head_weights * len(batch.target_ids))
        for name, layers in model.token_layers.items()
    }
    return {
        "backbone": (counted or model.backbone.flops)(batch.layout),
        "head": 2 * model.head.weight.numel() * len(batch.target_ids),
        **apart,
        **{f"{name} patches": layers.flops(batch.latents[name]) for name, layers in model.patch_layers.items()},
    }
