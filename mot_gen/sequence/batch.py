"""A batch of packed samples: Latents, its continuous tokens; Masking, of masked objectives; PackedBatch, all of it.

Shapes: B rows, S slots a row, N continuous tokens of a modality in the batch, n spans of it, C channels of a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.sequence.layout import PADDING, Layout
from mot_gen.sequence.memo import Memo
from mot_gen.sequence.moving import Movable


@dataclass
class Latents(Movable, Memo):
    """The continuous tokens of one modality in a batch, in the order of their slots.

    values: (N, C).
    slots: (N,) index into the B * S slots.
    span: (N,) which of the n spans a token belongs to.
    learned: (n,) whether a span carries loss.
    leads: (n,) whether learned text follows it in its document, for which Transfusion caps the noise.
    time: (n,) in [0, 1], 0 = clean, or None before an objective has corrupted the batch.
    grids: n pairs (rows, columns).
    step: (n,) the size of the sampler's step, for objectives that use it; None means 0.
    conditioning: (n, D), or (1, D) for all spans: time and step as the patch layers embed them, if made before.
    made: what follows from where the spans stand; a sampler reads the same latents at every step.
    """

    values: Tensor
    slots: Tensor
    span: Tensor
    learned: Tensor
    leads: Tensor
    grids: list[tuple[int, int]] = field(default_factory=list)
    time: Tensor | None = None
    step: Tensor | None = None
    conditioning: Tensor | None = None
    made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def times(self) -> Tensor:
        """(n,) the time of each span; InputError before an objective has set them."""
        if self.time is None:
            raise InputError("latents: this batch has no times and noise yet; give what model.corrupt(batch) returns")
        return self.time

    def per_token(self, per_span: Tensor) -> Tensor:
        """(n, ...) -> (N, ...): a span's value for each of its tokens."""
        return per_span[self.span]

    def first_slots(self) -> Tensor:
        """(n,) the slot of each span's first token."""
        spans = torch.arange(len(self.learned), device=self.span.device)
        return self.slots[torch.searchsorted(self.span, spans)]

    def select(self, kept: Tensor, slots: Tensor) -> Latents:
        """Some of the spans. kept: (n,) bool. slots: (N',) the new slots of their tokens."""
        tokens = self.per_token(kept)
        renumbered = kept.long().cumsum(0) - 1
        grids = [grid for grid, held in zip(self.grids, kept.tolist()) if held]
        return Latents(
            values=self.values[tokens],
            slots=slots,
            span=renumbered[self.span[tokens]],
            learned=self.learned[kept],
            leads=self.leads[kept],
            grids=grids,
            time=_rows_of(self.time, kept),
            step=_rows_of(self.step, kept),
        )


def _rows_of(values: Tensor | None, rows: Tensor) -> Tensor | None:
    """values[rows], or None. rows: an index, or one bool a row."""
    return None if values is None else values[rows]


@dataclass
class Masking(Movable):
    """What a masked objective has made of a batch's discrete tokens.

    weight: (B, S) float, what the loss of the token in a slot is multiplied by; 0 where it is not masked.
    counted: (B, S) bool, the tokens over which the weighted losses are averaged.
    """

    weight: Tensor
    counted: Tensor


@dataclass
class PackedBatch(Movable):
    """A packed batch: where everything is, what it is, what carries loss.

    ids: (B, S) joint ids, 0 in the slots of continuous tokens and of padding.
    learned: (B, S) bool, whether the token *in* a slot is to be learned.
    latents: modality name -> `Latents`, for every continuous modality, perhaps with N = 0, so that every process calls
    every tower.
    target_slots, target_ids: (M,) the slots, of B * S, whose output predicts a token, and the id of that token: the
    next slot's, or in bidirectional spans the slot's own.
    masking: set by objectives that mask tokens. The ids of masked tokens are then in target_ids alone.
    tokens: how many slots hold a token, as the packer has counted on the host.
    by_scales: (B, S) bool, the tokens of several scales that are predicted, and so are read as what earlier scales have
    built; None: all are read as they are.
    """

    layout: Layout
    ids: Tensor
    learned: Tensor
    latents: dict[str, Latents]
    target_slots: Tensor
    target_ids: Tensor
    masking: Masking | None = None
    tokens: int | None = None
    by_scales: Tensor | None = None

    @property
    def fill(self) -> float:
        """Share of the slots that hold a token."""
        return (self.layout.document != PADDING).double().mean().item()

    def select_rows(self, rows: Tensor) -> PackedBatch:
        """A batch of some rows, (R,) ascending, to be read again. It predicts no discrete tokens: target_slots is
        empty."""
        length = self.layout.shape[1]
        new_row = torch.full((self.layout.shape[0],), PADDING, device=rows.device)
        new_row[rows] = torch.arange(len(rows), device=rows.device)
        latents = {}
        for name, each in self.latents.items():
            row = new_row[each.slots // length]
            kept = torch.zeros_like(each.learned).index_put_((each.span,), row != PADDING)
            slots = (row * length + each.slots % length)[row != PADDING]
            latents[name] = each.select(kept, slots)
        layout = self.layout.select_rows(rows)
        none = self.target_slots[:0]
        by_scales = _rows_of(self.by_scales, rows)
        return PackedBatch(layout, self.ids[rows], self.learned[rows], latents, none, none, by_scales=by_scales)
