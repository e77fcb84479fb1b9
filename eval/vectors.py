"""VectorErrors: how far predicted numbers are from those that are right."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.result import MetricResult


class VectorErrors(Accumulator):
    """`update(predictions, targets)`: sequences of (n, d), pair by pair of one shape; d is the same for all.

    value: the mean squared error over all numbers. details: its root, the mean absolute error, R^2 (1 - squared error
    over that of each channel's mean, channels together), and `last`, the mean Euclidean distance of last tokens.
    """

    takes = "vectors"
    higher_is_better = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_rows("predicted", "right", "ends")

    def update(self, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Add pairs; InputError where two differ in shape."""
        if len(predictions) != len(targets):
            raise InputError(f"{len(predictions)} predictions were given for {len(targets)} targets")
        for number, (predicted, right) in enumerate(zip(predictions, targets)):
            if predicted.shape != right.shape or predicted.dim() != 2 or not len(predicted):
                raise InputError(
                    f"pair {number}: a prediction of shape {tuple(predicted.shape)} and a target of "
                    f"{tuple(right.shape)}; both must be (n, d), and n at least 1"
                )
            self.append("predicted", predicted)
            self.append("right", right)
            self.append("ends", (predicted[-1:].double() - right[-1:].double()).norm(dim=1, keepdim=True))

    def compute(self) -> MetricResult:
        predicted, right, ends = (self.rows(name) for name in ("predicted", "right", "ends"))
        require(len(ends), "vectors: no pair was given")
        squares = (predicted - right).square()
        spread = (right - right.mean(0)).square().sum()
        error = squares.mean().item()
        details = {
            "root": error**0.5,
            "mean_absolute": (predicted - right).abs().mean().item(),
            "r2": (1 - squares.sum() / spread).item() if spread > 0 else float("nan"),
            "last": ends.mean().item(),
        }
        n = {"pairs": len(ends), "tokens": len(right)}
        return MetricResult("mean_squared_error", error, n, provenance={"d": right.shape[1]}, details=details)
