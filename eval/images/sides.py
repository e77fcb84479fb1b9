"""What is compared: Side, the real or the generated images as they were given; side_of, is_statistics, paired."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.images.settings import ImageSettings
from mot_gen.eval.images.sources import ImageSource
from mot_gen.eval.images.statistics import ReferenceStatistics


@dataclass
class Side:
    """Real or fake images as they were given: a source of images, features (N, d), or statistics of real images.

    path: for messages. kept: features of the source's images, and the numbers of those images, where a report wants
    them.
    """

    path: str
    source: ImageSource | None = None
    features: Tensor | None = None
    statistics: ReferenceStatistics | None = None
    kept: tuple[Tensor, list[int]] | None = None


def side_of(given: Any, name: str, settings: ImageSettings) -> Side:
    """What `evaluate_images` takes, as a side.

    name: "real", "fake" or "held_out"."""
    if isinstance(given, ReferenceStatistics):
        return Side(name, statistics=given)
    if isinstance(given, (str, Path)) and is_statistics(given):
        return Side(str(given), statistics=ReferenceStatistics.load(given))
    if isinstance(given, np.ndarray) and given.ndim == 2:
        given = torch.from_numpy(given)
    if isinstance(given, Tensor) and given.ndim == 2:
        return Side(name, features=given)
    source = settings.open(given, name)
    return Side(source.path, source=source)


def is_statistics(path: str | Path) -> bool:
    """Whether a file is one that `eval stats` made."""
    if not zipfile.is_zipfile(path):
        return False
    with np.load(path, allow_pickle=False) as data:
        return "header" in data


def paired(metric: str, real: Side, fake: Side) -> tuple[ImageSource, ImageSource]:
    """Both sources; InputError for a name that only one of them has. metric: for messages."""
    if real.source is None or fake.source is None:
        raise InputError(f"{metric}: compares pairs of images; give images on both sides")
    absent = sorted(set(real.source.names) ^ set(fake.source.names))
    if absent:
        raise InputError(f"{metric}: {absent[0]!r} is in one of {real.path} and {fake.path} only; pairs need both")
    return real.source, fake.source
