"""The ids of a span against a vocabulary: check_ids."""

from __future__ import annotations

from mot_gen.errors import InputError
from mot_gen.sequence import Span


def check_ids(span: Span, vocab_size: int, name: str) -> None:
    """InputError unless the ids of a span, of which there is at least one, are from 0 to below vocab_size. name: of the
    tokenizer's modality."""
    low, high = span.values.min().item(), span.values.max().item()
    if low < 0 or high >= vocab_size:
        raise InputError(f"{name} ids {low} to {high} lie outside 0 to {vocab_size - 1}")
