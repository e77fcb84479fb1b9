"""Samples into the rows of a batch: pack, pack_rows, pack_prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.packing.rows import document_length, plan_rows
from mot_gen.packing.writer import Sample, Writer
from mot_gen.sequence.batch import PackedBatch
from mot_gen.sequence.modality import Modality, Span


def pack(
    samples: Sequence[Sample], modalities: Sequence[Modality], row_length: int, rows: int | None = None
) -> PackedBatch:
    """Put samples into rows of `row_length` slots; as many rows as needed, padded to `rows` where that is given.

    samples: documents, each a list of `Span`, as tokenizers encode them. modalities: `model.modalities`.
    InputError, which names the sample and the span, for what the model cannot read or no row can hold."""
    require(len(samples) or rows, "samples: there are none to pack")
    for number, sample in enumerate(samples):
        _check_sample(sample, f"sample {number}")
    plan = plan_rows([document_length(sample, modalities) for sample in samples], row_length)
    if rows is not None and len(plan) > rows:
        raise InputError(f"{len(samples)} samples need {len(plan)} rows of {row_length}, but rows is {rows}")
    missing = (rows or 0) - len(plan)
    plan += [[] for _ in range(missing)]
    return pack_rows([[samples[i] for i in row] for row in plan], modalities, row_length)


def _check_sample(sample: Sample, name: str) -> None:
    """InputError for what is no list of spans that hold tensors."""
    is_listed = isinstance(sample, Sequence) and not isinstance(sample, str)
    require(is_listed, f"{name}: must be a list of spans, got {type(sample).__name__}; put [ ] around a single span")
    for number, span in enumerate(sample):
        where = f"{name}, span {number}"
        is_span = isinstance(span, Span)
        require(is_span, f"{where}: must be a Span, got {type(span).__name__}; a tokenizer's encode makes one")
        require(isinstance(span.values, Tensor), f"{where}: values must be a tensor, got {type(span.values).__name__}")


def pack_rows(
    rows: Sequence[Sequence[Sample]], modalities: Sequence[Modality], row_length: int, slots: int | None = None
) -> PackedBatch:
    """Pack with the assignment of samples to rows already made: rows[b] are the documents of row b, in order.

    slots: how many slots a row has, if they are more than the tokens that it may hold."""
    writer = Writer(modalities, row_length, slots)
    number = 0
    for row in rows:
        writer.open_row()
        for sample in row:
            writer.write_document(sample, f"sample {number}")
            number += 1
        writer.close_row()
    return writer.batch()


def pack_prompts(
    prompts: Sequence[Sample], modalities: Sequence[Modality], opens: Sequence[str | None] | None = None
) -> tuple[PackedBatch, Tensor]:
    """Documents to be continued, one a row: their end is left out, and they may be empty.

    opens: per prompt the modality whose begin token stands last, so that its span comes next; where that token is part
    of the span's block, or is its time, it is not written yet. Returns the batch, as long as its longest prompt, and
    the (B,) lengths.
    """
    opens = opens or [None] * len(prompts)
    lengths = [_prompt_length(prompt, modalities, opened) for prompt, opened in zip(prompts, opens)]
    writer = Writer(modalities, max(lengths))
    for number, (prompt, modality) in enumerate(zip(prompts, opens)):
        writer.open_row()
        writer.write_prompt(prompt, modality, f"prompt {number}")
        writer.close_row()
    return writer.batch(), torch.tensor(lengths)


def _prompt_length(prompt: Sample, modalities: Sequence[Modality], opens: str | None) -> int:
    """Slots of a document without its end, with the begin token of the span that it opens."""
    length = document_length(prompt, modalities)
    if not modalities[0].wraps:
        length -= 1
    if opens is None:
        return length
    opened = next(m for m in modalities if m.name == opens)
    return length + opened.begin_is_apart
