"""Features of a whole source, in shards that are cached on disk: extract_shards. A run that was cut off goes on.

The cache folder of a source is named by a hash of what lies in it and of the extractor's provenance, so a changed
image, other weights or another resize mode never meet old features.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mot_gen.errors import require
from mot_gen.eval.images.extractors import Extractor
from mot_gen.eval.images.resizing import resize
from mot_gen.eval.images.sources import ImageSource, load_all
from mot_gen.files.atomic import writing

SHARD = 1024  # images whose features are kept in one file: what is lost when a run is cut off


@dataclass
class Extraction:
    """How features are made.

    cache: the folder that keeps them, None for nowhere.
    batch_size: images at a time.
    workers: threads that decode.
    output: which output of the network it is, "features" or "logits", as they must not meet in the cache.
    on_progress: called with the number of images just done.
    """

    extractor: Extractor
    cache: Path | None = None
    batch_size: int = 64
    workers: int = min(8, os.cpu_count() or 1)
    output: str = "features"
    on_progress: Callable[[int], None] = lambda done: None

    def folder(self, source: ImageSource) -> Path | None:
        """The folder in which the features of a source are kept; None if they are not kept."""
        if self.cache is None or source.fingerprint is None:
            return None
        facts = json.dumps([source.fingerprint, self.extractor.provenance(), self.output, SHARD], sort_keys=True)
        return Path(self.cache) / hashlib.sha256(facts.encode()).hexdigest()[:24]


def extract_shards(source: ImageSource, how: Extraction) -> Iterator[tuple[Tensor, list[int]]]:
    """(features (n, d), numbers of their images) shard by shard; images that cannot be read are left out."""
    folder = how.folder(source)
    for start in range(0, len(source), SHARD):
        numbers = range(start, min(start + SHARD, len(source)))
        file = None if folder is None else folder / f"{start:09d}.npz"
        if file is not None and file.exists():
            yield _read_shard(file, source)
        else:
            yield _make_shard(source, numbers, how, file)
        how.on_progress(len(numbers))


def _make_shard(source: ImageSource, numbers: range, how: Extraction, file: Path | None) -> tuple[Tensor, list[int]]:
    parts, kept, before = [], [], len(source.unreadable)
    batch: list[Tensor] = []
    for i, image in load_all(source, numbers, how.workers):
        if image is not None:
            batch.append(image)
            kept.append(i)
        is_full = len(batch) == how.batch_size or i == numbers[-1]
        if batch and is_full:
            parts.append(features_of(batch, how.extractor))
            batch = []
    features = _joined(parts) if parts else torch.zeros(0, 0)
    if file is not None:
        _write_shard(file, features, kept, source.unreadable[before:])
    return features, kept


def features_of(images: list[Tensor], extractor: Extractor) -> Tensor:
    """(n, d) on the CPU; images of mixed sizes are resized one by one, in the extractor's own mode."""
    if len({image.shape for image in images}) == 1:
        return extractor(torch.stack(images)).cpu()
    return _joined([extractor(image[None]) for image in images]).cpu()


def _joined(parts: list[Tensor]) -> Tensor:
    """(n, d) of several parts. InputError where d differs, as it does with `pixels` and other sizes."""
    widths = sorted({each.shape[1] for each in parts})
    told = " and ".join(map(str, widths[:2]))
    require(len(widths) == 1, f"pictures have {told} features; bring them to one size first, or take another extractor")
    return torch.cat(parts)


def _write_shard(file: Path, features: Tensor, numbers: list[int], unreadable: list[str]):
    """Whole or not at all: a run killed while writing leaves no half file under the final name."""
    with writing(file) as part, part.open("wb") as out:
        np.savez(
            out, features=features.numpy(), numbers=np.array(numbers, dtype=np.int64), unreadable=unreadable or [""]
        )


def _read_shard(file: Path, source: ImageSource) -> tuple[Tensor, list[int]]:
    with np.load(file, allow_pickle=False) as data:
        for note in filter(None, data["unreadable"].tolist()):
            source.note(note)
        return torch.from_numpy(data["features"]), data["numbers"].tolist()


def thumbnails(source: ImageSource, numbers: list[int], size: int = 96) -> list[Tensor]:
    """(3, size, size) uint8 of some images, for reports."""
    return [resize(source.read(i)[None], size, "antialias").round().clamp(0, 255).byte()[0] for i in numbers]


def default_cache() -> Path:
    """The folder in which features are kept, unless --cache names another."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mot-gen" / "features"
