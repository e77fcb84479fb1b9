"""Numbers for a line of metrics.jsonl: spent, sums_of, mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mot_gen.flops import forward_flops
from mot_gen.reinforce.data_losses import DataLosses
from mot_gen.sequence import PADDING, PackedBatch
from mot_gen.training.runs import Run


def spent(run: Run, batches: Sequence[PackedBatch], data: DataLosses) -> list[float]:
    """Tokens, FLOPs and slots of an update on this process, those of the data beside it among them; what sampling took
    is not counted."""
    tokens = sum(int((batch.layout.document != PADDING).sum()) for batch in batches)
    flops = sum(3 * forward_flops(run.model, batch) for batch in batches)
    slots = sum(batch.ids.numel() for batch in batches)
    return [own + beside for own, beside in zip((tokens, flops, slots), data.spent)]


def sums_of(measures: Sequence[Mapping[str, Tensor]]) -> list[float]:
    """Of each name, in order, the sum of what is known of it over all measures, and how many that is."""
    found: list[float] = []
    for name in measures[0] if measures else ():
        values = torch.cat([each[name].flatten().float() for each in measures])
        found += [float(values.nansum()), float(values.isfinite().sum())]
    return found


def mean(sum_and_count: Sequence[float]) -> float:
    """A mean of two such numbers, summed over processes; 0 of none."""
    total, count = sum_and_count
    return total / max(count, 1.0)
