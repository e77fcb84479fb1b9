"""How images are read and their features made, for the metrics of images: ImageSettings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mot_gen.errors import expect
from mot_gen.eval.devices import device_of
from mot_gen.eval.extras import from_options
from mot_gen.eval.images.extraction import Extraction, extract_shards
from mot_gen.eval.images.extractors import load_extractor
from mot_gen.eval.images.sources import ImageSource, open_images
from mot_gen.files.progress import counted


@dataclass(frozen=True)
class ImageSettings:
    """How images are read and their features made.

    extractor: a name or folder for `load_extractor`, an nn.Module, or an Extractor.
    weights: a local file for it.
    download: fetch those of fid-inception.
    resize, dtype: in place of the extractor's own.
    device: where it runs; InputError for one that is not here.
    batch_size, workers: images at a time, and threads that decode.
    cache: a folder where features of files are kept.
    max_unreadable: how many files may be left out.
    as_stored: neither turn pictures by EXIF nor lay transparency on white.
    confidence, seed, lpips: as in `Choices`.
    splits: parts of the Inception Score.
    held_out: real images, or features, that were not trained on, for memorization.
    show_progress: on stderr.
    """

    extractor: str | Path | nn.Module = "efficientnet-lite0"
    weights: str | Path | None = None
    download: bool = False
    resize: str | None = None
    dtype: str | None = None
    device: str = "cpu"
    batch_size: int = 64
    workers: int = min(8, os.cpu_count() or 1)
    cache: str | Path | None = None
    max_unreadable: int = 10
    as_stored: bool = False
    confidence: float | None = None
    seed: int = 0
    splits: int = 10
    held_out: Any = None
    lpips: str | None = None
    show_progress: bool = False

    def __post_init__(self):
        device_of(self.device)
        for name in ("batch_size", "workers", "splits"):
            expect(getattr(self, name) >= 1, f"{name} must be 1 or more", getattr(self, name))
        expect(self.max_unreadable >= 0, "max_unreadable must be 0 or more", self.max_unreadable)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ImageSettings:
        """From keyword arguments; InputError for one that is not known."""
        return from_options(cls, options)

    def open(self, images: Any, name: str) -> ImageSource:
        """Images as a source; name: what messages call those that have no path."""
        return open_images(images, self.max_unreadable, as_stored=self.as_stored, name=name)

    def extraction(self, output: str = "features") -> Extraction:
        """output: which output of the network is wanted, "features" or "logits"."""
        stated = {"resize": self.resize, "dtype": self.dtype}
        options: dict[str, Any] = {"output": output, **{name: value for name, value in stated.items() if value}}
        if self.download and self.extractor == "fid-inception":
            options["download"] = True
        extractor = load_extractor(self.extractor, weights=self.weights, **options).to(self.device)
        cache = None if self.cache is None else Path(self.cache)
        return Extraction(extractor, cache, self.batch_size, self.workers, output)

    def shards(self, source: ImageSource, how: Extraction) -> Iterator[tuple[Tensor, list[int]]]:
        """(features (n, d), numbers of their images), n > 0, of a whole source, shard by shard."""
        shown = counted(len(source), source.path) if self.show_progress else nullcontext(lambda done: None)
        with shown as how.on_progress:
            for features, numbers in extract_shards(source, how):
                if numbers:
                    yield features, numbers
