"""MAUVE, how near generated texts are to human ones: MAUVE, and its pure cluster_histograms and mauve_score.

Texts are features of a language model, quantised together by k-means into N / 10 clusters. With p and q the two
histograms, the curve of exp(-c KL(q | r)), exp(-c KL(p | r)) over mixtures r of both encloses an area between 0 and 1,
1 for equal histograms (Pillutla et al. 2021). Settings are those of the authors' package: features of unit length, PCA
to 90% of the variance, c = 5, 25 mixtures. Only k-means differs (scikit-learn's in place of faiss'), as its seed does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mot_gen.errors import InputError
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.images.feature_sets import canonical
from mot_gen.eval.result import MetricResult
from mot_gen.eval.text.embeddings import TextEncoder

VARIANCE, SCALING, MIXTURES, RESTARTS, ITERATIONS = 0.9, 5.0, 25, 5, 500


def cluster_histograms(human: Tensor, made: Tensor, clusters: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Histograms (clusters,) of two sets of features (n, d) and (m, d) over common clusters; each sums to 1."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    features = normalize(torch.cat([human, made]).double(), dim=1).cpu().numpy()
    reduction = PCA(random_state=seed).fit(features)
    kept = int(np.argmax(np.cumsum(reduction.explained_variance_ratio_) >= VARIANCE)) + 1
    reduced = reduction.transform(features)[:, :kept]
    means = KMeans(clusters, init="random", n_init=RESTARTS, max_iter=ITERATIONS, random_state=seed).fit(reduced)
    labels = torch.from_numpy(means.labels_.astype(np.int64))
    sides = labels[: len(human)], labels[len(human) :]
    one, two = (torch.bincount(side, minlength=clusters).double() / len(side) for side in sides)
    return one, two


def mauve_score(human: Tensor, made: Tensor) -> float:
    """The area under the divergence curve of two histograms."""
    weights = torch.linspace(1e-6, 1 - 1e-6, MIXTURES, dtype=torch.float64)[:, None]
    mixture = weights * human + (1 - weights) * made
    x = torch.exp(-SCALING * _divergences(made, mixture))
    y = torch.exp(-SCALING * _divergences(human, mixture))
    # The curve ends on both axes.
    x = torch.cat([x.new_tensor([1.0]), x, x.new_tensor([0.0])])
    y = torch.cat([y.new_tensor([0.0]), y, y.new_tensor([1.0])])
    return (_area(x, y) + _area(y, x)) / 2


def _divergences(histogram: Tensor, mixtures: Tensor) -> Tensor:
    """KL(histogram | mixture) in nats of (k,) against each of (s, k)."""
    held = histogram > 0
    return (histogram[held] * (histogram[held] / mixtures[:, held]).log()).sum(1)


def _area(x: Tensor, y: Tensor) -> float:
    order = torch.argsort(x, stable=True)
    return torch.trapezoid(y[order], x[order]).item()


class MAUVE(Accumulator):
    """`update(batch, real=...)`: features (N, d), or texts with an `encoder`; real ones are the human texts.

    encoder: a folder of a transformers language model (GPT-2 large, in the paper), or a TextEncoder. clusters: None for
    a tenth of the smaller set, at least 2. seed: of k-means.
    """

    higher_is_better = True
    takes = "features"

    def __init__(
        self,
        encoder: TextEncoder | str | Path | None = None,
        *,
        clusters: int | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.encoder = TextEncoder.of(encoder)
        self.clusters, self.seed = clusters, seed
        self.add_rows("real", "fake")

    def update(self, batch: Tensor | Sequence[str], real: bool) -> None:
        if not isinstance(batch, Tensor):
            if self.encoder is None:
                raise InputError("mauve: texts without a model; pass the folder of a language model, or features")
            batch = self.encoder.last(batch)
        self.append("real" if real else "fake", batch)

    def compute(self) -> MetricResult:
        human, made = canonical(self.rows("real")), canonical(self.rows("fake"))
        for side, rows in (("real", human), ("fake", made)):
            if len(rows) < 2:
                raise InputError(
                    f"{side}: {len(rows)} texts; MAUVE needs at least 2 a side, and thousands to be stable"
                )
        fewest = min(len(human), len(made))
        clusters = self.clusters or max(2, round(fewest / 10))
        facts = {"extractor": "features"} if self.encoder is None else self.encoder.provenance()
        few = [f"N = {fewest} is below 5000: the score is noisy and biased upwards"] if fewest < 5000 else []
        return MetricResult(
            name="mauve",
            value=mauve_score(*cluster_histograms(human, made, clusters, self.seed)),
            n={"real": len(human), "fake": len(made)},
            provenance={**facts, "clusters": clusters, "scaling": SCALING, "seed": self.seed},
            warnings=few,
        )
