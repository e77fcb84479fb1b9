"""Samples as batches to be learned from, and which of their tokens were choices: Actions, Weighing, Documents, Ids.

A sample becomes one document with all that was written, for its tokens; and, for a continuous picture, one document for
each step of the sampler that is learned from, with the picture as it was before that step. Special tokens that the
sampler wrote by rule were no choice and do not count; the end of a text that the model chose does.

Shapes: M targets of a batch, N continuous tokens of it, C channels, K sets of ids that may come, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mot_gen.model import MultimodalModel
from mot_gen.packing import document_length, pack_rows, plan_rows
from mot_gen.reinforce.rollouts import Rollout
from mot_gen.sequence import PackedBatch, Span

NEVER = -1  # the set of ids of a target that was no choice


@dataclass
class _Document:
    """spans: packed as they are. allowed: for each target in order, the set of ids it was chosen from, or NEVER. time:
    of its picture. step: the step of the sampler that it is for, or None. advantage: of its sample. weight: of each of
    its actions."""

    spans: list[Span]
    allowed: list[int]
    advantage: float
    weight: float
    time: float = 0.0
    step: int | None = None
    after: Tensor | None = None


@dataclass
class Actions:
    """A batch, and what was chosen in it.

    allowed: (M,) the set of ids that each target was chosen from, or NEVER. token_advantage, token_weight: (M,); a
    weight of 0 is no choice. after: (N, C) x after the step. number: (N,) the step. advantage, weight: (N,).
    """

    batch: PackedBatch
    allowed: Tensor
    token_advantage: Tensor
    token_weight: Tensor
    after: Tensor
    number: Tensor
    advantage: Tensor
    weight: Tensor


class Ids:
    """The sets of ids among which a text or a discrete picture is written, as `pipelines.writer.Writer` allows them."""

    FIRST, TEXT, IMAGE = range(3)  # the first token of a text, which is not its end; the others; a picture's

    def __init__(self, model: MultimodalModel, writes: Sequence[str]):
        vocabulary, text = model.vocabulary, model.modality_names[0]
        end = vocabulary.document_end
        if len(writes) > 1 and not vocabulary.wraps:
            end = vocabulary.begin["image"]
        first = ~vocabulary.writable(text)
        later = first.clone()
        later[end] = False
        discrete = "image" in writes and model.modalities[model.index_of["image"]].discrete
        image = ~vocabulary.writable("image") if discrete else first
        self.forbidden = torch.stack([first, later, image])  # (K, V)

    def __getitem__(self, allowed: Tensor) -> Tensor:
        """(M,) sets -> (M, V) bool, the ids that could not come; nothing is forbidden where there was no choice."""
        table = self.forbidden.to(allowed.device)
        return table[allowed.clamp_min(0)] & (allowed != NEVER)[:, None]


@dataclass(frozen=True)
class Weighing:
    """advantage: of a rollout. steps: those of its picture that are learned from."""

    advantage: float
    steps: Sequence[int] = ()


class Documents:
    """How rollouts become batches.

    times: of the sampler's steps, None where no picture is continuous. per_answer: every answer counts as much as
    another; else every action. shape: rows of a batch, slots of a row.
    """

    def __init__(self, model: MultimodalModel, times: Tensor | None, per_answer: bool, shape: tuple[int, int]):
        self.model, self.times, self.per_answer = model, times, per_answer
        self.rows, self.slots = shape

    def batches(self, rollouts: Sequence[Rollout], weighed: Sequence[Weighing]) -> list[Actions]:
        """The documents of all rollouts, in batches of rows."""
        documents = [each for rollout, given in zip(rollouts, weighed) for each in self._of(rollout, given)]
        plan = plan_rows([document_length(each.spans, self.model.modalities) for each in documents], self.slots)
        packed = [[documents[index] for index in row] for row in plan]
        starts = range(0, len(packed), self.rows)
        return [_actions(self.model, packed[start : start + self.rows], self.slots) for start in starts]

    def empty(self) -> Actions:
        """A batch without a document, for a process that has none left while others have."""
        return _actions(self.model, [[]], self.slots)

    def _of(self, rollout: Rollout, given: Weighing) -> Iterator[_Document]:
        prompt = [replace(span, learned=False) for span in rollout.prompt.spans]
        written = [replace(span, learned=True) for span in rollout.spans]
        allowed = list(choices(self.model, written, rollout.ended))
        chosen = sum(each != NEVER for each in allowed)
        if chosen:
            weight = 1 / chosen if self.per_answer else 1.0
            yield _Document([*prompt, *written], allowed, given.advantage, weight)
        if rollout.noisy is None or rollout.after is None or self.times is None:
            return
        *before, picture = written
        read = [*prompt, *(replace(span, learned=False) for span in before)]
        none = [NEVER] * len(list(choices(self.model, [picture], ended=False)))
        for step in given.steps:
            noisy = replace(picture, values=rollout.noisy[step])
            weight = 1 / (len(picture) * len(given.steps)) if self.per_answer else 1.0
            time = float(self.times[step])
            yield _Document([*read, noisy], none, given.advantage, weight, time, step, rollout.after[step])


def choices(model: MultimodalModel, written: Sequence[Span], ended: bool) -> Iterator[int]:
    """The set of ids of each target of some learned spans, in the order in which `packing` writes them."""
    text, wraps = model.modality_names[0], model.vocabulary.wraps
    for place, span in enumerate(written):
        modality = model.modalities[model.index_of[span.modality]]
        if span.modality == text:
            yield Ids.FIRST
            yield from [Ids.TEXT] * (len(span) - 1)
            yield Ids.TEXT if ended else NEVER  # its own end, or what follows it
            continue
        begun_by_text = place > 0 and not wraps
        if not begun_by_text and not modality.block:
            yield NEVER  # its begin
        if modality.discrete and not modality.bidirectional:
            yield from [Ids.IMAGE] * len(span)
            yield NEVER  # its end
    if written[-1].modality != text and not wraps:
        yield NEVER  # the document's end


def _actions(model: MultimodalModel, rows: Sequence[Sequence[_Document]], slots: int) -> Actions:
    documents = [document for row in rows for document in row]
    batch = pack_rows([[document.spans for document in row] for row in rows], model.modalities, slots)
    targets = [each for document in documents for each in document.allowed]
    assert len(targets) == len(batch.target_ids), "the packer writes other targets than were counted"
    counts = torch.tensor([len(document.allowed) for document in documents], dtype=torch.long)
    allowed = torch.tensor(targets, dtype=torch.long)
    advantage, weight = _of_each(documents, "advantage"), _of_each(documents, "weight")
    for name, latents in batch.latents.items():
        times = [_time(document, span) for document in documents for span in document.spans if span.modality == name]
        batch.latents[name] = replace(latents, time=torch.tensor(times, dtype=torch.float32))
    return Actions(
        batch,
        allowed,
        advantage.repeat_interleave(counts),
        weight.repeat_interleave(counts) * (allowed != NEVER),
        *_steps(batch, documents, advantage, weight),
    )


def _of_each(documents: Sequence[_Document], name: str) -> Tensor:
    return torch.tensor([getattr(document, name) for document in documents], dtype=torch.float32)


def _time(document: _Document, span: Span) -> float:
    return document.time if span.learned else 0.0


def _steps(
    batch: PackedBatch, documents: Sequence[_Document], advantage: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each continuous token of the pictures: x after the step, the step's number, advantage and weight."""
    latents = batch.latents.get("image")
    if latents is None:
        return torch.zeros(0, 1), torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0)
    after, number, of = latents.values.clone(), torch.zeros(len(latents.values), dtype=torch.long), []
    place = 0
    for index, document in enumerate(documents):
        for span in document.spans:
            if span.modality != "image":
                continue
            own = slice(place, place := place + len(span))
            if span.learned and document.step is not None and document.after is not None:
                after[own], number[own] = document.after, document.step
                of.append((own, index))
    advantages, weights = torch.zeros(len(after)), torch.zeros(len(after))
    for own, index in of:
        advantages[own], weights[own] = advantage[index], weight[index]
    return after, number, advantages, weights
