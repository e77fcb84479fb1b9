"""How much memory a data set takes once it is tokenised: media_bytes, cache_lines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mot_gen.data import records
from mot_gen.data.encoded import fixed_length
from mot_gen.data.spans import SpanCache
from mot_gen.recipes.sections import Data
from mot_gen.sequence import Modality

ID, FLOAT = 8, 4  # bytes
MIB = 2**20


def media_bytes(samples: Sequence[records.Sample], tokenizers: Mapping[str, Any], data: Data) -> int:
    """Bytes of all spans of media that come again, as far as their length is known beforehand. tokenizers: modality ->
    tokenizer, text first.

    Each sample is taken to have one of each, unless the data says how many have.
    """
    kinds = records.kinds(samples)
    total = 0
    for name, tokenizer in list(tokenizers.items())[1:]:
        length = fixed_length(tokenizer)
        if length is not None:
            count = kinds[name] if kinds else len(samples)
            if name == "image" and data.augment.active:
                count *= data.augment.variants  # 0: every picture is a new one each time
            total += count * (length * _bytes_of_a_token(tokenizer.modality) + SpanCache.OVERHEAD)
    return total


def _bytes_of_a_token(modality: Modality) -> int:
    return ID if modality.channels is None else FLOAT * modality.channels


def cache_lines(samples: Sequence[records.Sample], tokenizers: Mapping[str, Any], data: Data) -> list[str]:
    """What to say where `data.cache_mb` is too small to keep all media between epochs, and memory would be enough."""
    needed = media_bytes(samples, tokenizers, data) // MIB + 1
    if not data.cache_mb < needed < _memory() // 2 // MIB:
        return []
    enough = needed + needed // 4  # texts are kept as well
    return [
        f"its pictures and sounds take {needed:,} MiB once they are tokenised, of which data.cache_mb keeps "
        f"{data.cache_mb}; with data.cache_mb={enough} none is tokenised anew in every epoch"
    ]


def _memory() -> int:
    """Bytes of this machine's memory; 0 where the system does not tell."""
    if not hasattr(os, "sysconf"):
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
