"""Inception Score: InceptionScore, and the pure pair inception_score_update / inception_score_compute.

IS = exp(E_x KL(p(y|x) || p(y)))                                                         (Salimans et al. 2016)
"""

from __future__ import annotations

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.images.feature_sets import canonical
from mot_gen.eval.images.features import FeatureSource
from mot_gen.eval.result import MetricResult


def inception_score_update(logits: Tensor) -> Tensor:
    """Log probabilities (N, classes) float64 of logits (N, classes)."""
    if logits.ndim != 2 or not torch.isfinite(logits).all():
        raise InputError(f"logits must be finite (N, classes), got shape {tuple(logits.shape)}; check the extractor")
    return logits.double().log_softmax(1)


def inception_score_compute(log_probs: Tensor) -> float:
    """The score of one split (N, classes): between 1 and the number of classes."""
    marginal = log_probs.exp().mean(0)
    negative_entropy = (log_probs.exp() * log_probs).sum(1).mean()
    return torch.exp(negative_entropy - torch.special.xlogy(marginal, marginal).sum()).item()


class InceptionScore(Accumulator):
    """Inception Score of images or logits: mean over `splits` random parts, as published (10), with their spread.

    `update(batch)` takes logits (N, classes), or with a `feature_extractor` that gives logits also images. The score of
    a part is biased by its size, so splits is part of the signature; splits=1 uses all samples at once.
    """

    higher_is_better = True
    takes = "logits"

    def __init__(self, feature_extractor=None, *, splits=10, seed=0, clamp=False, **kwargs):
        super().__init__(**kwargs)
        require(splits >= 1, f"splits: must be at least 1, got {splits}")
        self.source, self.splits, self.seed = FeatureSource(feature_extractor, clamp), splits, seed
        self.add_rows("log_probs")

    def update(self, batch: Tensor):
        self.append("log_probs", inception_score_update(self.source(batch)))

    def compute(self) -> MetricResult:
        rows = canonical(self.rows("log_probs"))
        if len(rows) < 2 * self.splits:
            raise InputError(
                f"N = {len(rows)} for {self.splits} splits; give at least {2 * self.splits} or fewer splits"
            )
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed)).to(rows.device)
        scores = [inception_score_compute(part) for part in rows[order].tensor_split(self.splits)]
        spread = torch.tensor(scores, dtype=torch.float64)
        warnings = []
        if len(rows) < 5000:
            warnings.append(f"N = {len(rows)} is below 5000: the score is biased downwards")
        return MetricResult(
            name=self.source.label("IS"),
            value=spread.mean().item(),
            n={"fake": len(rows)},
            provenance={**self.source.provenance(), "splits": self.splits, "seed": self.seed},
            warnings=warnings,
            details={"std": spread.std(correction=0).item()},
        )
