"""Real images against generated ones: `evaluate_images`, and `reference_statistics` of a set.

    results = evaluate_images("real/", fake_tensor, metrics=["fd", "kd", "pr"], extractor="efficientnet-lite0")

Images come from anything that `open_images` reads; features (N, d) may be given in place of images. `measure_images` is
the same with the sources and features kept, for reports.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mot_gen.errors import InputError, nearest
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import PAIRS, SETS, Choices, chosen, results_of
from mot_gen.eval.images.extraction import Extraction, extract_shards
from mot_gen.eval.images.extractors import load_extractor
from mot_gen.eval.images.inception_score import InceptionScore
from mot_gen.eval.images.moments import add_features, unpack_moments
from mot_gen.eval.images.sources import ImageSource, open_images
from mot_gen.eval.images.statistics import ReferenceStatistics
from mot_gen.eval.jsonl import provenance_of
from mot_gen.eval.result import MetricResult, Results
from mot_gen.files.progress import counted

METRICS = (*SETS, "is", *PAIRS)
DEFAULT = ("fd", "kd", "pr")
OF_STATISTICS = ("fd", "is")  # what needs no real images beside their statistics


@dataclass(frozen=True)
class ImageSettings:
    """How images are read and their features made.

    extractor: a name or folder for `load_extractor`, an nn.Module, or an Extractor. weights: a local file for it.
    download: fetch those of fid-inception. resize, dtype: in place of the extractor's own. device: where it runs.
    batch_size, workers: images at a time, and threads that decode. cache: a folder where features of files are kept.
    max_unreadable: how many files may be left out. as_stored: neither turn pictures by EXIF nor lay transparency on
    white. confidence, seed, lpips: as in `Choices`. splits: parts of the Inception Score. held_out: real
    images, or features, that were not trained on, for memorization. show_progress: on stderr.
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

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ImageSettings:
        """From keyword arguments; InputError for one that is not known."""
        known = [one.name for one in fields(cls)]
        for name in options:
            if name not in known:
                raise InputError(f"option {name!r} is not known" + nearest(name, known))
        return cls(**options)

    def open(self, images: Any, name: str) -> ImageSource:
        return open_images(images, self.max_unreadable, as_stored=self.as_stored, name=name)

    def extraction(self, output: str = "features") -> Extraction:
        """output: which output of the network is wanted, "features" or "logits"."""
        options: dict[str, Any] = {"output": output}
        if self.resize:
            options["resize"] = self.resize
        if self.dtype:
            options["dtype"] = self.dtype
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


@dataclass
class Measured:
    """Results with what they were measured on."""

    results: Results
    real: Side
    fake: Side


def evaluate_images(real: Any, fake: Any, metrics: str | Iterable[str] = DEFAULT, **options: Any) -> Results:
    """Results by name: of fd, kd, cmmd, pr, fdinf, vendi, memorization, is; and of pairs psnr, ssim, lpips.

    real, fake: what `open_images` takes; features as an array or tensor (N, d); for real also a file of
    `mot-gen eval stats` or ReferenceStatistics. options: fields of `ImageSettings`. Pairs are made by file name, or by
    place where images come from memory. InputError for what cannot be read or measured.
    """
    return measure_images(real, fake, metrics, ImageSettings.of(options)).results


def measure_images(
    real: Any, fake: Any, metrics: str | Iterable[str], settings: ImageSettings, keep_features: bool = False
) -> Measured:
    """`evaluate_images` with its sources, and with features where `keep_features`."""
    names = chosen(metrics, METRICS, "metrics")
    measured = Measured(Results(), _side(real, "real", settings), _side(fake, "fake", settings))
    _check_sides(names, measured)
    results = measured.results
    if wanted := [name for name in names if name in SETS]:
        results.update(_set_results(wanted, measured, settings, keep_features))
    if "is" in names:
        results["is"] = _inception_score(measured.fake, settings)
    for name in names:
        if name in PAIRS:
            metric = PAIRS[name](Choices(settings.confidence, settings.seed, lpips=settings.lpips))
            results[name] = _pair_result(metric, *_paired_sources(name, measured))
    _add_facts(measured)
    return measured


def _side(given: Any, name: str, settings: ImageSettings) -> Side:
    if isinstance(given, ReferenceStatistics):
        return Side(name, statistics=given)
    if isinstance(given, (str, Path)) and name == "real" and is_statistics(given):
        return Side(str(given), statistics=ReferenceStatistics.load(given))
    if isinstance(given, np.ndarray) and given.ndim == 2:
        given = torch.from_numpy(given)
    if isinstance(given, Tensor) and given.ndim == 2:
        return Side(name, features=given)
    source = settings.open(given, name)
    return Side(source.path, source=source)


def is_statistics(path: str | Path) -> bool:
    """Whether a file is one that `eval stats` made."""
    if Path(path).suffix != ".npz" or not Path(path).is_file():
        return False
    with np.load(path, allow_pickle=False) as data:
        return "header" in data


def _check_sides(names: list[str], measured: Measured) -> None:
    """InputError for metrics that need more than was given, before anything is computed."""
    real, fake = measured.real, measured.fake
    if fake.statistics is not None:
        raise InputError("fake: statistics stand in for real images only; give the generated images")
    if real.statistics is not None:
        if other := [name for name in names if name not in OF_STATISTICS]:
            raise InputError(f"{real.path}: statistics are enough for fd, not for {', '.join(other)}; give the images")
        return
    if (real.features is None) != (fake.features is None):
        raise InputError("features on one side meet images on the other; give features, or images, for both")
    if fake.features is not None and (other := [name for name in names if name not in SETS]):
        raise InputError(f"features are not enough for {', '.join(other)}; give images")
    for name in names:
        if name in PAIRS:
            _paired_sources(name, measured)


def _set_results(names: list[str], measured: Measured, settings: ImageSettings, keep: bool) -> dict[str, MetricResult]:
    """Metrics over features; fills `kept` of both sides where wanted."""
    how = None if measured.fake.features is not None else settings.extraction()
    statistics = measured.real.statistics
    if statistics is not None:
        statistics.require(_facts_of(how, measured.fake.source), measured.real.path)
    extractor = None if how is None else how.extractor
    choices = Choices(settings.confidence, settings.seed, extractor=extractor, reference=statistics)
    metrics = {name: SETS[name](choices) for name in names}
    for real, side in ((True, measured.real), (False, measured.fake)):
        if side.features is not None:
            _feed(metrics.values(), side.features, real)
        elif side.source is not None and how is not None:
            side.kept = _feed_source(metrics.values(), side.source, how, settings, real, keep)
    if "memorization" in metrics and settings.held_out is not None:
        measured.results.unreadable += _feed_held_out(metrics["memorization"], how, settings)
    return results_of(metrics)


def _feed_held_out(metric: Accumulator, how: Extraction | None, settings: ImageSettings) -> list[str]:
    """Real samples that were not trained on; returns which of them could not be read."""
    side = _side(settings.held_out, "held_out", settings)
    if side.features is not None:
        metric.update(side.features, real=True, held_out=True)
        return []
    if side.source is None or how is None:
        raise InputError("held_out: give what the other sides are, images or features (N, d)")
    for features, _ in settings.shards(side.source, how):
        metric.update(features, real=True, held_out=True)
    return [f"{side.source.path}/{note}" for note in side.source.unreadable]


def _facts_of(how: Extraction | None, source: ImageSource | None) -> dict[str, Any]:
    """What must be equal for statistics to be comparable with features of these images."""
    facts: dict[str, Any] = {"pictures": None}
    if how is not None:
        facts |= how.extractor.provenance()
    if source is not None:
        facts |= source.provenance()
    return facts


def _feed(metrics: Iterable[Accumulator], features: Tensor, real: bool) -> None:
    for metric in metrics:
        metric.update(features, real=real)


def _feed_source(
    metrics: Iterable[Accumulator],
    source: ImageSource,
    how: Extraction,
    settings: ImageSettings,
    real: bool,
    keep: bool,
) -> tuple[Tensor, list[int]] | None:
    """All features of a source into the metrics; returns them, with the numbers of their images, if `keep` and any."""
    parts: list[Tensor] = []
    numbers: list[int] = []
    for features, own in settings.shards(source, how):
        _feed(metrics, features, real)
        if keep:
            parts.append(features)
            numbers += own
    return (torch.cat(parts), numbers) if parts else None


def _inception_score(fake: Side, settings: ImageSettings) -> MetricResult:
    assert fake.source is not None  # _check_sides refuses features here
    how = settings.extraction(output="logits")
    metric = InceptionScore(
        how.extractor, splits=min(settings.splits, max(1, len(fake.source) // 2)), seed=settings.seed
    )
    for logits, _ in settings.shards(fake.source, how):
        metric.update(logits)
    return metric.compute()


def _paired_sources(metric: str, measured: Measured) -> tuple[ImageSource, ImageSource]:
    """Both sources; InputError for a name that only one of them has."""
    real, fake = measured.real.source, measured.fake.source
    if real is None or fake is None:
        raise InputError(f"{metric}: compares pairs of images; give images on both sides")
    if absent := sorted(set(real.names) ^ set(fake.names)):
        raise InputError(f"{metric}: {absent[0]!r} is in one of {real.path} and {fake.path} only; pairs need both")
    return real, fake


def _pair_result(metric: Accumulator, real: ImageSource, fake: ImageSource) -> MetricResult:
    """Pairs are made by name."""
    others = {name: i for i, name in enumerate(fake.names)}
    for i, name in enumerate(real.names):
        made, original = fake.read_or_note(others[name]), real.read_or_note(i)
        if made is not None and original is not None:
            metric.update(made[None], original[None])
    return metric.compute()


def _add_facts(measured: Measured) -> None:
    """Into every result: what sources say of themselves, and what could not be read."""
    results = measured.results
    for name, side in (("real", measured.real), ("fake", measured.fake)):
        source = side.source
        if source is None:
            continue
        results.unreadable += [f"{source.path}/{note}" for note in source.unreadable]
        for result in results.values():
            result.provenance |= source.provenance()
            if source.fingerprint is not None:
                result.add_provenance(provenance_of(source.path), name)
    if results.unreadable:
        first = ", ".join(results.unreadable[:3])
        note = f"{len(results.unreadable)} images could not be read and are left out: {first}"
        for result in results.values():
            result.warnings.append(note)


def reference_statistics(source: Any, **options: Any) -> tuple[ReferenceStatistics, list[str]]:
    """Moments of a set of images with what they were computed by, and which images could not be read.

    source: what `open_images` takes. options: fields of `ImageSettings`. `.save(path)` writes a file that
    `evaluate_images` takes in place of real images.
    """
    settings = ImageSettings.of(options)
    images, how = settings.open(source, "images"), settings.extraction()
    packed = torch.zeros(0, 0, dtype=torch.float64)
    for features, _ in settings.shards(images, how):
        packed = add_features(packed, features)
    moments = unpack_moments(packed)
    if moments.n < 2:
        raise InputError(f"{images.path}: fewer than 2 images can be read; a covariance needs 2")
    facts = how.extractor.provenance() | images.provenance()
    return ReferenceStatistics(moments, facts), images.unreadable
