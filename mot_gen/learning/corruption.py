"""Corruption: what the objectives of a model make of a batch before it is learned from.

Continuous tokens get times and noise, discrete ones of masked objectives get masks, and some others are replaced. In
training this happens on the host, where a batch is packed: how many tokens are concerned is then known there.

Shapes: B rows, S slots, N continuous tokens of n spans, K tokens of a discrete modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mot_gen.learning.masking import mask_batch, span_numbers
from mot_gen.sequence import PADDING, Latents, Modality, PackedBatch, Vocabulary


@dataclass(frozen=True)
class Corruption:
    """How batches of a model are corrupted. objectives: by modality; a modality that is only read has none."""

    modalities: Sequence[Modality]
    vocabulary: Vocabulary
    objectives: Mapping[str, Any]

    @property
    def index_of(self) -> dict[str, int]:
        """Modality name -> its number in layouts."""
        return {m.name: number for number, m in enumerate(self.modalities)}

    @property
    def whole(self) -> list[str]:
        """The modalities of discrete tokens that are predicted several at once."""
        return [m.name for m in self.modalities if m.whole]

    def corrupt(
        self, batch: PackedBatch, generator: torch.Generator | None, tokens: bool
    ) -> tuple[PackedBatch, dict[str, Tensor]]:
        """See `MultimodalModel.corrupt`."""
        ids = self._replaced(batch, generator) if tokens else batch.ids
        latents, targets = dict(batch.latents), {}
        for name, own in batch.latents.items():
            if name in self.objectives:
                latents[name], targets[name] = self._noised(batch, name, own, generator, steps=tokens)
        corrupted = replace(batch, ids=ids, latents=latents)
        return mask_batch(corrupted, batch.ids, self, generator, bound=not tokens), targets

    def _noised(
        self, batch: PackedBatch, name: str, latents: Latents, generator: torch.Generator | None, steps: bool
    ) -> tuple[Latents, Tensor]:
        """Latents with noise and a time for each span, and the targets for them.

        steps: whether some spans are to learn a step of the sampler.
        """
        objective = self.objectives[name]
        time, step = objective.sample_time(latents, generator), None
        if steps and getattr(objective, "takes_step", False):
            chosen = _spans_of_some_rows(latents, batch.layout.shape, objective.share, generator)
            time, step = objective.sample_steps(latents, time, chosen, generator)
        values, target = objective.corrupt(latents.values, latents.per_token(time), generator)
        return replace(latents, values=values, time=time, step=step), target

    def _replaced(self, batch: PackedBatch, generator: torch.Generator | None) -> Tensor:
        """(B, S) ids as the discrete objectives let them be read; special tokens stay."""
        ids, layout = batch.ids.clone(), batch.layout
        special = torch.tensor(sorted(self.vocabulary.special), device=ids.device)
        for modality in self.modalities:
            objective = self.objectives.get(modality.name)
            if not modality.discrete or objective is None or not getattr(objective, "replaced", 0):
                continue
            first, end = self.vocabulary.range(modality.name)
            own = (layout.modality == self.index_of[modality.name]) & (layout.document != PADDING)
            own &= (ids >= first) & (ids < end) & ~torch.isin(ids, special)
            span = span_numbers(layout, own)
            ids[own] = first + objective.replace(ids[own] - first, span, end - first, generator)
        return ids


def _spans_of_some_rows(latents: Latents, shape: torch.Size, share: float, generator: torch.Generator | None) -> Tensor:
    """(n,) bool, the spans that stand in a share of the rows, drawn at random; whole rows, so that the rest of a batch
    need not be read again."""
    rows, length = shape
    device = latents.slots.device
    order = torch.rand(rows, generator=generator, device=device).argsort()
    chosen = torch.zeros(rows, dtype=torch.bool, device=device)
    chosen[order[: round(share * rows)]] = True
    spans = torch.zeros_like(latents.learned)
    return spans.index_put_((latents.span,), chosen[latents.slots // length])
