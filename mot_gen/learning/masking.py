"""Tokens that are predicted several at once, and what stands in their place: mask_batch, in_spans, span_numbers.

Masked objectives put masks in the place of some tokens, of a span or of one of its blocks. Spans of several scales are
predicted as a whole, from what earlier scales have built. Either says how its tokens count.

Shapes: B rows, S slots, K tokens of a modality in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from mot_gen.sequence import PADDING, Layout, Masking, Modality, PackedBatch, Vocabulary


class MaskableModel(Protocol):
    """What is asked of a model. index_of: modality name -> its number in layouts. whole: its modalities of tokens that
    are predicted several at once."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def index_of(self) -> Mapping[str, int]: ...

    @property
    def modalities(self) -> Sequence[Modality]: ...

    @property
    def objectives(self) -> Mapping[str, Any]: ...

    @property
    def whole(self) -> Sequence[str]: ...


def mask_batch(
    batch: PackedBatch, clean: Tensor, model: MaskableModel, generator: torch.Generator | None, bound: bool
) -> PackedBatch:
    """The batch with masks where the masked objectives put them, with what is predicted scale by scale, and with how
    those tokens count. clean: (B, S) the ids without any error. bound: the losses are to be the likelihood bound, and
    not what training takes."""
    if not model.whole:
        return batch
    ids, by_scales = batch.ids.clone(), torch.zeros_like(batch.learned)
    masking = Masking(weight=torch.zeros(ids.shape, device=ids.device), counted=torch.zeros_like(batch.learned))
    followed = _learned_follows(replace(batch, ids=clean), model.vocabulary.special)
    for name in model.whole:
        objective, own = model.objectives[name], in_spans(batch.layout, model.index_of[name])
        time = _times(batch, own, followed, model.modalities[model.index_of[name]], objective, generator)
        hidden = objective.mask(time, generator)
        if name in model.vocabulary.mask:
            ids[own] = torch.where(hidden, model.vocabulary.mask[name], ids[own])
        else:
            by_scales[own] = hidden
        masking.weight[own], masking.counted[own] = objective.weigh(hidden, time, bound)
    return replace(batch, ids=ids, masking=masking, by_scales=by_scales)


def _times(
    batch: PackedBatch,
    own: Tensor,
    followed: Tensor,
    modality: Modality,
    objective: Any,
    generator: torch.Generator | None,
) -> Tensor:
    """(K,) the time of each token that is its own, (B, S) bool: its span's, where it belongs to the block that is
    learned. followed: (B, S) bool, whether learned tokens follow its span."""
    span = span_numbers(batch.layout, own)
    count = int(span.max()) + 1 if len(span) else 0
    learned = torch.zeros(count, dtype=torch.bool, device=own.device).index_put_((span,), batch.learned[own])
    leads = torch.zeros_like(learned).index_put_((span,), followed[own])
    time = objective.sample_time(learned, leads, generator)[span]
    return time * _one_block(batch.layout, own, span, count, generator) if modality.block_size else time


def in_spans(layout: Layout, index: int) -> Tensor:
    """(B, S) bool: the tokens of spans of a modality that are predicted several at once, without special tokens."""
    own = layout.modality == index
    return own if layout.block is None else own & (layout.block != PADDING)


def _one_block(layout: Layout, own: Tensor, span: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """own: (B, S) bool, K slots of them; span: (K,) the number of each one's span, below count -> (K,) bool: the tokens
    of one block of each span, drawn by chance. Blocks of a span are numbered one after the other."""
    assert layout.block is not None, "the packer has numbered them"
    block = layout.block[own]
    largest = int(block.max()) if len(block) else 0
    first = block.new_full((count,), largest).scatter_reduce(0, span, block, "amin")
    last = block.new_zeros(count).scatter_reduce(0, span, block, "amax")
    draw = torch.rand(count, generator=generator, device=block.device)
    return block == (first + (draw * (last - first + 1)).long())[span]


def span_numbers(layout: Layout, own: Tensor) -> Tensor:
    """own: (B, S) bool, K slots of them -> (K,) the number of each one's span among them, from 0."""
    row = own.nonzero()[:, 0]
    return torch.unique(torch.stack([row, layout.span[own]]), dim=1, return_inverse=True)[1]


def _learned_follows(batch: PackedBatch, special: set[int]) -> Tensor:
    """(B, S) bool: whether a later span of the slot's document is learned. special: the ids of special tokens, which do
    not count."""
    layout = batch.layout
    content = batch.learned & ~torch.isin(batch.ids, torch.tensor(sorted(special), device=batch.ids.device))
    latest = torch.where(content, layout.span, PADDING)
    documents = int(layout.document.max()) + 1
    last = torch.full((len(latest), documents + 1), PADDING, device=latest.device)
    last = last.scatter_reduce(1, layout.document + 1, latest, "amax")
    return last.gather(1, layout.document + 1) > layout.span
