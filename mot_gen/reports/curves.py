"""Losses of a run, as it logged them: entries, curve; and what makes curves smooth: smooth, smoothed, width_of.

A run writes a JSON object a line into `metrics.jsonl`: its step, the losses of that step by modality, sometimes the
held-out losses of the averaged model, and what it has cost so far.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Curve = Sequence[tuple[float, float]]  # (step or cost, loss), the former rising

SPLITS = ("train", "held_out")
FIELDS = {"train": "losses", "held_out": "held_out"}  # where a line of metrics.jsonl has the losses of a split
SMOOTHING = 0.05  # of a run's logged losses, averaged together


def entries(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def curve(lines: Sequence[dict], modality: str, split: str = "train", by: str = "step") -> Curve:
    """(by, loss) of a modality: `train` losses of single steps, or `held_out` ones of the averaged model."""
    field = FIELDS[split]
    having = [line for line in lines if modality in line.get(field, ())]
    return [(line[by], line[field][modality]) for line in having]


def width_of(points: Curve) -> int:
    """How many points of a curve are smoothed together."""
    return max(1, round(SMOOTHING * len(points)))


def smoothed(points: Curve) -> Curve:
    """The curve with its losses smoothed."""
    places, losses = zip(*points)
    return list(zip(places, smooth(np.asarray(losses), width_of(points)).tolist()))


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving mean over `width` points; near the ends over as many as lie on both sides, so that a straight line
    stays one."""
    half = min(width, len(values)) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
