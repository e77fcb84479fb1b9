"""Objective: next-token cross-entropy, with PaLM's z-loss, label smoothing and noise on what is read as options."""

from __future__ import annotations

from dataclasses import dataclass

from mot_gen.objectives.cross_entropy import CrossEntropy


@dataclass(frozen=True)
class Objective(CrossEntropy):
    """Every token is predicted from those before it; the options are those of `CrossEntropy`."""
