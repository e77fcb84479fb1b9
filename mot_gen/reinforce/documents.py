"""Samples as documents and batches, and which of their tokens were choices: RolloutDocument, Packed, pack_documents,
in_a_batch, add_noise, Ids, choices.

A sample becomes one document with all that was written, for its tokens. A continuous picture has one document more for
each time at which it is learned from, with the picture as noisy as it was then. Special tokens that the sampler
wrote by rule were no choice; the end of a text that the model chose was one.

Shapes: D documents, M targets of a batch, N continuous tokens of its pictures, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mot_gen.model import MultimodalModel
from mot_gen.packing import document_length, pack_rows, plan_rows
from mot_gen.sequence import Latents, PackedBatch, Span
from mot_gen.sequence.moving import Movable

NEVER = -1  # the set of ids of a target that was no choice


@dataclass
class RolloutDocument:
    """A sample, or a part of it, to be packed.

    spans: packed as they are.
    allowed: for each target in order, the set of ids from which it was chosen, or NEVER.
    time: of its learned picture.
    target: (n, C), the targets of that picture's tokens; None where no picture is learned from.
    """

    spans: list[Span]
    allowed: list[int]
    time: float = 0.0
    target: Tensor | None = None

    def spans_of(self, modality: str) -> list[Span]:
        """Those of a modality."""
        return [span for span in self.spans if span.modality == modality]

    def times(self, modality: str) -> list[float]:
        """The time of each span of a modality; what is not learned is clean."""
        return [self.time if span.learned else 0.0 for span in self.spans_of(modality)]


@dataclass
class Packed(Movable):
    """A batch of documents.

    allowed, of_target: (M,) the set of ids from which each target was chosen, and its document.
    target, of_token: (N, C) the target of each continuous token, and (N,) its document; -1 where it is not learned
    from.
    """

    batch: PackedBatch
    allowed: Tensor
    of_target: Tensor
    target: Tensor
    of_token: Tensor

    def means(self, each: Tensor, documents: int) -> Tensor:
        """each (N,), of continuous tokens -> (documents,): its mean over the tokens of each learned picture, 0 where
        there is none."""
        own = self.of_token >= 0
        counts = torch.bincount(self.of_token[own], minlength=documents).clamp_min(1)
        return each.new_zeros(documents).index_add(0, self.of_token[own], each[own]) / counts


def rows_of(model: MultimodalModel, documents: Sequence[RolloutDocument], slots: int) -> list[list[int]]:
    """Numbers of the documents that share a row; one empty row where there are none."""
    lengths = [document_length(document.spans, model.modalities) for document in documents]
    return plan_rows(lengths, slots) or [[]]


def pack_documents(
    model: MultimodalModel, documents: Sequence[RolloutDocument], rows: Sequence[Sequence[int]], slots: int
) -> Packed:
    """A batch of these rows of documents, by their numbers."""
    batch = pack_rows([[documents[number].spans for number in row] for row in rows], model.modalities, slots)
    in_order = {number: documents[number] for row in rows for number in row}
    allowed: list[int] = []
    of_target: list[int] = []
    for number, document in in_order.items():
        allowed += document.allowed
        of_target += [number] * len(document.allowed)
    assert len(allowed) == len(batch.target_ids), "the packer writes other targets than were counted"
    for name, latents in batch.latents.items():
        times = [time for document in in_order.values() for time in document.times(name)]
        batch.latents[name] = replace(latents, time=torch.tensor(times, dtype=torch.float32))
    target, of_token = _of_pictures(batch, in_order)
    return Packed(batch, _integers(allowed), _integers(of_target), target, of_token)


def _integers(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long)


def _of_pictures(batch: PackedBatch, documents: Mapping[int, RolloutDocument]) -> tuple[Tensor, Tensor]:
    """What belongs to each continuous token of the pictures, and its document's number. documents: in order."""
    if "image" not in batch.latents:
        return torch.zeros(0, 1), _integers([])
    targets = [batch.latents["image"].values[:0]]
    of_token: list[int] = []
    for number, document in documents.items():
        for span in document.spans_of("image"):
            if document.target is not None and span.learned:
                targets.append(document.target)
                of_token += [number] * len(span)
            else:
                targets.append(span.values)
                of_token += [-1] * len(span)
    return torch.cat(targets), _integers(of_token)


def in_a_batch(model: MultimodalModel, documents: Sequence[RolloutDocument], rows: int, slots: int) -> int:
    """How many documents surely fit into so many rows, one at least."""
    longest = max((document_length(document.spans, model.modalities) for document in documents), default=slots)
    return max(1, rows * max(1, slots // longest))


def add_noise(
    model: MultimodalModel, read: Sequence[Span], pictures: Sequence[Span], generator: torch.Generator
) -> Iterator[RolloutDocument]:
    """A document for each of some pictures, all at the same time and with the same noise."""
    objective: Any = model.objectives[pictures[0].modality]
    time = objective.sample_time(_alone(pictures[0]), generator)
    before = generator.get_state()
    for picture in pictures:
        generator.set_state(before)
        values, target = objective.corrupt(picture.values, time.expand(len(picture)), generator)
        none = [NEVER] * len(choices(model, [picture], ended=False))
        yield RolloutDocument([*read, replace(picture, values=values)], none, float(time), target)


def _alone(span: Span) -> Latents:
    """A span by itself, learned, which nothing follows."""
    here = torch.zeros(len(span), dtype=torch.long)
    return Latents(span.values, here, here, torch.tensor([True]), torch.tensor([False]), [span.grid or (1, len(span))])


# ---------------------------------------------------------------- choices


class Ids:
    """The sets of ids among which a text or a discrete picture is written, as `pipelines.engine.Writer` allows them."""

    FIRST, TEXT, IMAGE = range(3)  # the first token of a text, which is not its end; the others; a picture's

    def __init__(self, model: MultimodalModel, writes: Sequence[str]):
        vocabulary, text = model.vocabulary, model.modality_names[0]
        end = vocabulary.document_end
        if len(writes) > 1 and not vocabulary.wraps:
            end = vocabulary.begin["image"]
        first = ~vocabulary.writable(text)
        later = first.clone()
        later[end] = False
        image = first
        if "image" in writes and model.modality["image"].discrete:
            image = ~vocabulary.writable("image")
        self.forbidden = torch.stack([first, later, image])  # (sets, V)

    def __getitem__(self, allowed: Tensor) -> Tensor:
        """(M,) sets -> (M, V) bool, the ids that could not come; nothing is forbidden where there was no choice."""
        table = self.forbidden.to(allowed.device)
        return table[allowed.clamp_min(0)] & (allowed != NEVER)[:, None]


def choices(model: MultimodalModel, written: Sequence[Span], ended: bool) -> list[int]:
    """The set of ids of each target of some learned spans, in the order in which `packing` writes them. ended: whether
    the end of the text was chosen."""
    text, wraps = model.modality_names[0], model.vocabulary.wraps
    found: list[int] = []
    after_text = False
    for span in written:
        if span.modality == text:
            found += [Ids.FIRST, *[Ids.TEXT] * (len(span) - 1)]
            found.append(Ids.TEXT if ended else NEVER)  # its own end, or what follows it
            after_text = not wraps
        else:
            found += _of_picture(model, span, after_text)
    ends_with_text = written[-1].modality == text
    if not (ends_with_text or wraps):
        found.append(NEVER)  # the document's end
    return found


def _of_picture(model: MultimodalModel, span: Span, after_text: bool) -> Iterator[int]:
    """Those of a picture and its bounds. after_text: whether its begin was counted as the end of a text."""
    modality = model.modality[span.modality]
    if not after_text and not modality.block:
        yield NEVER  # its begin
    if modality.discrete and not modality.bidirectional:
        yield from [Ids.IMAGE] * len(span)
        yield NEVER  # its end
