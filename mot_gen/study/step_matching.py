"""Step matching (arXiv 2411.04996): at what share of the FLOPs a run reaches another's loss. StepMatch, match.

For every step of the reference past its warm-up: the step at which the other run has first come as low. Both losses are
smoothed the same way and made monotone by their running minima, and the other's steps are interpolated between those
that were logged. The slope of the least-squares line through the origin is the figure: 0.25 says that the other run
needs a quarter of the steps. Where runs differ in FLOPs a step, the slope in FLOPs is the slope times their ratio.

A run that is worse reaches only the reference's earlier losses: `window` says which steps were matched, and
`matched_share` how much of the reference's course past its warm-up that is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mot_gen.errors import require
from mot_gen.reports.curves import Curve, smooth


@dataclass(frozen=True)
class StepMatch:
    """At which steps two runs had the same loss.

    slope: of the line through the origin.
    end_point_ratio: matched step over step at the window's end.
    window: the first and last step of the reference that was matched.
    matched_share: the window's part of all steps past the warm-up.
    points: (step of the reference, step of the other).
    """

    slope: float
    end_point_ratio: float
    window: tuple[float, float]
    matched_share: float
    points: list[tuple[float, float]]


def match(reference: Curve, other: Curve, warmup: float = 0.0, smoothing: int = 1) -> StepMatch | None:
    """Match `other` to the steps of `reference` past `warmup`, both smoothed over `smoothing` points.

    None where no loss of the reference past its warm-up is reached. Raises InputError for fewer than two points.
    """
    for name, curve in (("reference", reference), ("other", other)):
        require(len(curve) >= 2, f"step matching: the {name} run has {len(curve)} logged losses; it needs at least two")
    steps, losses = monotone(reference, smoothing)
    late = steps > warmup
    found = first_reached(*monotone(other, smoothing), losses[late])
    reached = ~np.isnan(found)
    if not reached.any():
        return None
    at, found = steps[late][reached], found[reached]
    whole = steps[-1] - steps[late][0]
    share = float((at[-1] - at[0]) / whole) if whole else 1.0
    return StepMatch(
        slope=float(at @ found / (at @ at)),
        end_point_ratio=float(found[-1] / at[-1]),
        window=(float(at[0]), float(at[-1])),
        matched_share=share,
        points=list(zip(at.tolist(), found.tolist())),
    )


def monotone(curve: Curve, smoothing: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and running minima of the losses smoothed by a centred mean over `smoothing` points."""
    steps, losses = np.asarray(curve, dtype=float).T
    return steps, np.minimum.accumulate(smooth(losses, smoothing))


def first_reached(steps: np.ndarray, losses: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The first step at which falling `losses` come down to each of `wanted`, interpolated; NaN where they never do."""
    index = np.searchsorted(-losses, -wanted)  # the first place with losses <= wanted
    inside = np.minimum(index, len(losses) - 1)
    before = np.maximum(inside - 1, 0)
    drop = losses[before] - losses[inside]
    part = np.divide(losses[before] - wanted, drop, out=np.ones_like(wanted), where=drop > 0)
    at = steps[before] + np.clip(part, 0.0, 1.0) * (steps[inside] - steps[before])
    return np.where(index < len(losses), at, np.nan)
