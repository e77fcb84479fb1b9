"""How a recipe fits the tokenizer `vector`, by its numbers' mean and deviation: Training, untrained, train, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mot_gen.tokenizers.vector import VectorTokenizer


@dataclass(frozen=True)
class Training:
    """It has no options: one pass over all samples is all there is."""

    @property
    def steps(self) -> int:
        return 1


untrained = VectorTokenizer


def train(
    tokenizer: VectorTokenizer,
    raws: Iterable[tuple[str, Any]],
    options: Training,
    folder: Path,
    report: Callable[..., None],
    stop: Callable[[], bool],
) -> None:
    """Measure in place, on (name, numbers) pairs."""
    tokenizer.measure(raw for _, raw in raws)
    report(1)


def measure(tokenizer: VectorTokenizer, raws: Iterable[tuple[str, Any]]) -> dict:
    """How far these numbers, standardised, are from mean 0 and deviation 1: the worst channel of each."""
    values = torch.cat([tokenizer.encode(raw).values for _, raw in raws])
    return {
        "tokens": len(values),
        "largest_mean": values.mean(0).abs().max().item(),
        "largest_deviation": values.std(0, unbiased=False).max().item(),
    }
