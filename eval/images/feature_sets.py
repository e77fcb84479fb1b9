"""Metrics over whole sets of features: FeatureSetMetric keeps both sides.

`canonical`, `draw_indices`, `subset` and `square_distances` are what they share.

Legend: m real and n fake features of dimension d. Sets are put into a canonical order before anything is drawn from
them, so that neither batch sizes nor the number of processes change a result.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.images.features import FeatureSource

BLOCK = 2048  # rows of a kernel or distance matrix held at once


class FeatureSetMetric(Accumulator):
    """Keeps all features of both sides in float64; `sides()` gives them to `compute`. least: the samples a side needs.

    `update(batch, real=...)` takes features (N, d), or with a `feature_extractor` also images (N, 3, H, W).
    """

    takes = "features"
    least = 2

    def __init__(self, feature_extractor=None, *, clamp: bool = False, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.source, self.seed = FeatureSource(feature_extractor, clamp), seed
        self.add_rows("real", "fake")

    def update(self, batch: Tensor, real: bool):
        features = self.source(batch)
        if not torch.isfinite(features).all():
            raise InputError("features hold NaN or infinity; check the images and the extractor's dtype (use float32)")
        self.append("real" if real else "fake", features)

    def sides(self) -> tuple[Tensor, Tensor]:
        """(m, d) and (n, d) in canonical order; InputError where a side has too few, or other dimensions."""
        real, fake = canonical(self.rows("real")), canonical(self.rows("fake"))
        for side, rows in (("real", real), ("fake", fake)):
            if len(rows) < self.least:
                name = type(self).__name__
                raise InputError(f"{side}: N = {len(rows)}, but {name} needs at least {self.least} a side")
        if real.shape[1] != fake.shape[1]:
            raise InputError(
                f"real features have {real.shape[1]} dimensions, fake ones {fake.shape[1]}; use one extractor "
                "for both, and pictures of one size if it is pixels"
            )
        return real, fake

    def provenance(self) -> dict:
        return self.source.provenance()


def canonical(rows: Tensor) -> Tensor:
    """Rows in an order that depends on their values only: by their projection on one fixed random direction."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64).to(rows.device)
    return rows[torch.argsort((rows * direction).sum(1), stable=True)]


def subset(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` rows drawn without replacement."""
    return rows[draw_indices(len(rows), size, generator).to(rows.device)]


def draw_indices(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Numbers of `size` rows of `count`, without replacement; on the CPU, so that all devices draw alike."""
    return torch.randperm(count, generator=generator)[:size]


def square_distances(one: Tensor, two: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks (rows of `one`, their squared distances to all of `two`), so that memory grows with N and not with N^2."""
    squares = two.square().sum(1)
    for start in range(0, len(one), BLOCK):
        part = one[start : start + BLOCK]
        distances = part.square().sum(1, keepdim=True) + squares - 2 * part @ two.mT
        yield slice(start, start + len(part)), distances.clamp_(min=0)
