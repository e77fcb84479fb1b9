"""Numbers for a line of metrics.jsonl: step_cost; Sums, sums_of; their means, means_of; rewards_of, join_measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mot_gen.flops import forward_flops
from mot_gen.reinforce.data_losses import DataLosses
from mot_gen.sequence import PADDING, PackedBatch
from mot_gen.training.runs import Run
from mot_gen.training.step import StepCost

Sums = dict[tuple[str, str], float]  # (what is summed, of which score or modality)


def step_cost(run: Run, batches: Sequence[PackedBatch], data: DataLosses) -> StepCost:
    """What an update took on this process, with the data learned beside it; sampling is not counted."""
    tokens = sum(int((batch.layout.document != PADDING).sum()) for batch in batches)
    flops = sum(3 * forward_flops(run.model, batch) for batch in batches)
    slots = sum(batch.ids.numel() for batch in batches)
    beside = data.spent
    return StepCost(tokens + beside.tokens, flops + beside.flops, slots + beside.slots)


def sums_of(scores: Mapping[str, Tensor]) -> Sums:
    """The sum of the known values of each score, and how many are known; NaN is unknown."""
    sums: Sums = {}
    for name, values in scores.items():
        known = values.float()
        sums["sum", name] = float(known.nansum())
        sums["count", name] = float(known.isfinite().sum())
    return sums


def join_measures(measures: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The values of several batches, all with the same names, one after another."""
    return {name: torch.cat([each[name] for each in measures]) for name in measures[0]}


def means_of(sums: Sums) -> dict[str, float]:
    """The mean of each score of `sums_of`, whose sums were taken over processes; 0 where nothing is known."""
    names = [name for what, name in sums if what == "count"]
    return {name: sums["sum", name] / max(sums["count", name], 1.0) for name in names}


def rewards_of(sums: Sums, scores: Mapping[str, float]) -> dict[str, Any]:
    """What a line says of the rewards of a step. sums: over processes, of `Learner.rewarded`. scores: means of these,
    the whole reward among them."""
    by_name = dict(scores)
    found: dict[str, Any] = {"reward": by_name.pop("reward"), "rewards": by_name}
    for count in ("equal_groups", "without_reward"):
        found[count] = int(sums["step", count])
    return found
