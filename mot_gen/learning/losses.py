"""The losses of a model, from what it predicts: learned_losses, for training, and unreduced_losses.

`learned_losses` computes logits only for the tokens that count, a few of them at a time (`token_losses`), and sums.
`unreduced_losses` has one loss for each prediction, from logits that are all in memory at once.

Shapes: B rows, S slots, D width, V vocabulary, M slots that predict, N continuous tokens of a modality, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from mot_gen.errors import expect, require
from mot_gen.learning.supervision import Losses, Supervision, factors_of
from mot_gen.learning.token_losses import Head, token_losses
from mot_gen.sequence import Modality, PackedBatch


class Predictor(Protocol):
    """The part of a model that losses need. head_of: the head of a discrete modality."""

    @property
    def modalities(self) -> Sequence[Modality]: ...

    @property
    def objectives(self) -> Mapping[str, Any]: ...

    def head_of(self, name: str) -> Head: ...


def learned_losses(
    model: Predictor,
    batch: PackedBatch,
    hidden: Tensor,
    latents: Mapping[str, Tensor],
    supervision: Supervision,
    factors: Mapping[str, float] | None,
) -> Losses:
    """The losses of a batch, from which training takes gradients.

    hidden: (B * S, D), the output of the backbone. latents: modality -> (N, C), the output of its patch layers.
    factors: modality -> what its sum of losses is multiplied by in the total; None for 1 over how many count.
    InputError where one is missing.
    """
    if factors is None:
        factors = factors_of(dict.fromkeys(supervision.counts, 1.0), supervision.counts)
    lacking = ", ".join(sorted({*supervision.tokens, *supervision.latents} - factors.keys()))
    require(not lacking, f"factors: give every modality one, as factors_of does; {lacking} has none")
    total, by_token = hidden.new_zeros(()), {}
    for name, tokens in supervision.tokens.items():
        head = model.head_of(name)
        own, ids = hidden.index_select(0, tokens.slots), tokens.ids - head.first
        part, by_token[name] = token_losses(head, model.objectives[name].loss, own, ids, tokens.weight, factors[name])
        total = total + part
    for name, wanted in supervision.latents.items():
        losses = _latent_losses(model, batch, name, latents[name], wanted.values) * wanted.counted
        total = total + losses.sum() * factors[name]
        by_token[name] = losses.detach()
    return Losses(total, by_token)


def unreduced_losses(
    model: Predictor,
    batch: PackedBatch,
    logits: Tensor,
    latents: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Modality -> the loss of each prediction: (M,) where it is discrete, (N,) where it is continuous.

    logits: (M, V). latents and targets: modality -> (N, C).
    """
    found = {}
    for modality in model.modalities:
        name = modality.name
        if modality.input_only:
            continue
        if not modality.discrete:
            found[name] = _latent_losses(model, batch, name, latents[name], targets[name])
            continue
        found[name] = model.objectives[name].loss(logits, batch.target_ids)
        if modality.whole and batch.masking is not None:
            found[name] = found[name] * batch.masking.weight.flatten()[batch.target_slots]
    return found


def _latent_losses(model: Predictor, batch: PackedBatch, name: str, output: Tensor, target: Tensor) -> Tensor:
    """(N,) of one continuous modality. output and target: (N, C)."""
    latents = batch.latents[name]
    losses = model.objectives[name].loss(output, target, latents.per_token(latents.times()))
    what = f"objectives.{name}: loss must give one number for each token, of the shape {tuple(output.shape[:1])}"
    expect(losses.shape == output.shape[:1], what, tuple(losses.shape))
    return losses
