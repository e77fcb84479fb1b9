"""Supervision: which outputs for a corrupted batch have a loss (`loss_masks`), and the targets for them (`supervise`);
and the `Losses` that follow.

It is made on the host, where the batch is. The model then computes logits for the tokens that count and for no others,
and the host knows how many they are without asking the device.

Shapes: M slots that predict, m tokens of a discrete modality that count, N continuous tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mot_gen.errors import require
from mot_gen.learning.masking import in_spans
from mot_gen.sequence import Latents, Modality, PackedBatch, Vocabulary
from mot_gen.sequence.moving import Movable


@dataclass
class TokenTargets(Movable):
    """The discrete tokens of a modality that count. slots: (m,) of B * S, whose output predicts them. ids: (m,).
    weight: (m,) of each loss, or None for 1."""

    slots: Tensor
    ids: Tensor
    weight: Tensor | None = None


@dataclass
class LatentTargets(Movable):
    """The continuous tokens of a modality. values: (N, C). counted: (N,) in {0., 1.}, whether a token counts."""

    values: Tensor
    counted: Tensor


@dataclass
class Supervision(Movable):
    """The targets of a batch, by modality. counts: how many of its tokens count; losses are averaged over these."""

    tokens: dict[str, TokenTargets]
    latents: dict[str, LatentTargets]
    counts: dict[str, float]


@dataclass
class Losses:
    """The losses of one batch.

    total: the sum over modalities of factor * sum of losses, with gradients. by_token: losses by modality, (m,) or
    (N,), 0 where a token does not count, without gradients.
    """

    total: Tensor
    by_token: dict[str, Tensor]


def supervise(
    modalities: Sequence[Modality],
    batch: PackedBatch,
    targets: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
) -> Supervision:
    """The targets of a corrupted batch.

    targets: continuous modality -> (N, C). masks: as `loss_masks` gives them; a modality without one is only read.
    """
    tokens: dict[str, TokenTargets] = {}
    latents: dict[str, LatentTargets] = {}
    for modality in modalities:
        name = modality.name
        if name not in masks:  # what is only read
            continue
        if modality.discrete:
            tokens[name] = _token_targets(modality, batch, masks[name])
        else:
            latents[name] = LatentTargets(targets[name], masks[name])
    counts = {name: float(mask.sum().double()) for name, mask in masks.items()}
    return Supervision(tokens, latents, counts)


def _token_targets(modality: Modality, batch: PackedBatch, mask: Tensor) -> TokenTargets:
    """The targets of a discrete modality. mask: (M,), which predictions count."""
    counted = mask.nonzero().flatten()
    slots, weight = batch.target_slots[counted], None
    if batch.masking is not None and modality.whole:
        weight = batch.masking.weight.flatten()[slots]
    return TokenTargets(slots, batch.target_ids[counted], weight)


def loss_masks(modalities: Sequence[Modality], vocabulary: Vocabulary, batch: PackedBatch) -> dict[str, Tensor]:
    """Modality -> whether each prediction for a corrupted batch counts, in {0., 1.}: (M,) where it is discrete, (N,)
    where it is continuous. See `MultimodalModel.loss_masks`."""
    owner = _owner_of_targets(modalities, vocabulary, batch)
    masks = {}
    for number, modality in enumerate(modalities):
        if modality.input_only:
            continue
        if not modality.discrete:
            masks[modality.name] = _counted_latents(batch.latents[modality.name])
            continue
        mask = owner == number
        if modality.whole and batch.masking is not None:
            mask = mask & batch.masking.counted.flatten()[batch.target_slots]
        masks[modality.name] = mask.float()
    return masks


def _owner_of_targets(modalities: Sequence[Modality], vocabulary: Vocabulary, batch: PackedBatch) -> Tensor:
    """(M,) the number of the modality that each predicted token is learned with."""
    owner = vocabulary.modality_of(batch.target_ids)
    for number, modality in enumerate(modalities):
        # What fills up blocks is one of the text's ids, and learned with its block.
        if modality.name in vocabulary.fill:
            inside = in_spans(batch.layout, number).flatten()[batch.target_slots]
            owner = owner.masked_fill(inside, number)
    return owner


def _counted_latents(latents: Latents) -> Tensor:
    """(N,) in {0., 1.}: the tokens of spans that are learned and have noise to take off."""
    return latents.per_token(latents.learned & (latents.times() > 0)).float()


def factors_of(weights: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """What each modality's sum of losses is multiplied by: its weight over its count, in fp32 as the losses are.

    InputError where a modality that is counted has no weight.
    """
    lacking = ", ".join(sorted(counts.keys() - weights.keys()))
    require(not lacking, f"weights: give every modality one; {lacking} has none")
    return {name: float(torch.ones(()) / max(count, 1.0) * weights[name]) for name, count in counts.items()}
