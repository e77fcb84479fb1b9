"""Real images against generated ones: `evaluate_images`, and `reference_statistics` of a set.

    results = evaluate_images("real/", fake_tensor, metrics=["fd", "kd", "pr"], extractor="efficientnet-lite0")

Images come from anything that `open_images` reads; features (N, d) may be given in place of images. `measure_images` is
the same with the sources and features kept, for reports.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import OF_IMAGES, PAIRS, SETS, MetricOptions, chosen_names, results_of
from mot_gen.eval.images.extraction import Extraction
from mot_gen.eval.images.inception_score import InceptionScore
from mot_gen.eval.images.moments import add_features, unpack_moments
from mot_gen.eval.images.settings import ImageSettings
from mot_gen.eval.images.sides import Side, paired, side_of
from mot_gen.eval.images.sources import ImageSource
from mot_gen.eval.images.statistics import ReferenceStatistics
from mot_gen.eval.jsonl import provenance_of
from mot_gen.eval.result import MetricResult, Results

DEFAULT = ("fd", "kd", "pr")
OF_STATISTICS = ("fd", "is")  # what needs no real images beside their statistics


@dataclass
class MeasuredSides:
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
) -> MeasuredSides:
    """`evaluate_images` with its sources, and with features where `keep_features`."""
    names = chosen_names(metrics, OF_IMAGES, "metrics")
    measured = open_sides(real, fake, names, settings)
    results = measured.results
    of_sets = [name for name in names if name in SETS]
    if of_sets:
        results.update(_set_results(of_sets, measured, settings, keep_features))
    if "is" in names:
        results["is"] = _inception_score(measured.fake, settings)
    for name in names:
        if name in PAIRS:
            metric = PAIRS[name](MetricOptions(settings.confidence, settings.seed, lpips=settings.lpips))
            results[name] = _pair_result(metric, *paired(name, measured.real, measured.fake))
    _add_facts(measured)
    return measured


def open_sides(real: Any, fake: Any, names: list[str], settings: ImageSettings) -> MeasuredSides:
    """Both sides, of which nothing is measured yet. InputError where there are no images, or too little for a
    metric."""
    measured = MeasuredSides(Results(), side_of(real, "real", settings), side_of(fake, "fake", settings))
    _check_sides(names, measured)
    return measured


def _check_sides(names: list[str], measured: MeasuredSides) -> None:
    """InputError for metrics that need more than was given, before anything is computed."""
    real, fake = measured.real, measured.fake
    if fake.statistics is not None:
        raise InputError("fake: statistics stand in for real images only; give the generated images")
    if real.statistics is not None:
        _refuse(names, OF_STATISTICS, f"{real.path}: statistics are enough for fd, not for", "give the images")
        return
    if (real.features is None) != (fake.features is None):
        raise InputError("features on one side meet images on the other; give features, or images, for both")
    if fake.features is not None:
        _refuse(names, SETS, "features are not enough for", "give images")
    for name in names:
        if name in PAIRS:
            paired(name, real, fake)


def _refuse(names: list[str], enough_for: Container[str], what: str, remedy: str) -> None:
    """InputError for metrics among `names` that need more than what was given, which is enough for some."""
    others = [name for name in names if name not in enough_for]
    if others:
        raise InputError(f"{what} {', '.join(others)}; {remedy}")


def _set_results(
    names: list[str], measured: MeasuredSides, settings: ImageSettings, keep: bool
) -> dict[str, MetricResult]:
    """Metrics over features; fills `kept` of both sides where wanted."""
    how = settings.extraction() if measured.fake.features is None else None
    statistics = measured.real.statistics
    if statistics is not None:
        statistics.require(_facts_of(how, measured.fake.source), measured.real.path)
    extractor = None if how is None else how.extractor
    choices = MetricOptions(settings.confidence, settings.seed, extractor=extractor, reference=statistics)
    metrics = {name: SETS[name](choices) for name in names}
    _refuse_few(metrics, measured)
    for side in (measured.real, measured.fake):
        is_real = side is measured.real
        if side.features is not None:
            _feed(metrics.values(), side.features, is_real)
        elif side.source is not None and how is not None:
            side.kept = _feed_source(metrics.values(), side.source, how, settings, is_real, keep)
    if "memorization" in metrics and settings.held_out is not None:
        measured.results.unreadable += _feed_held_out(metrics["memorization"], how, settings)
    return results_of(metrics)


def _refuse_few(metrics: dict[str, Accumulator], measured: MeasuredSides) -> None:
    """InputError for metrics that need more samples than a side has, before any is read."""
    needs = {name: getattr(metric, "least", 1) for name, metric in metrics.items()}
    for side in (measured.real, measured.fake):
        given = side.features if side.source is None else side.source
        if given is not None:  # statistics stand for any number
            _refuse_few_of(str(side.path), len(given), needs)


def _refuse_few_of(path: str, count: int, needs: dict[str, int]) -> None:
    """InputError for the first metric that needs more than `count` samples. needs: of each, by its name."""
    lacking = [name for name, least in needs.items() if least > count]
    if not lacking:
        return
    enough = ",".join(name for name in needs if name not in lacking) or "fd"
    raise InputError(
        f"{path}: N = {count}, and {lacking[0]} needs at least {needs[lacking[0]]} a side; give more images, or ask "
        f"for what needs fewer, --metrics {enough}"
    )


def _feed_held_out(metric: Accumulator, how: Extraction | None, settings: ImageSettings) -> list[str]:
    """Real samples that were not trained on; returns which of them could not be read."""
    side = side_of(settings.held_out, "held_out", settings)
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
    if not parts:
        return None
    return torch.cat(parts), numbers


def _inception_score(fake: Side, settings: ImageSettings) -> MetricResult:
    assert fake.source is not None  # _check_sides refuses features here
    how = settings.extraction(output="logits")
    metric = InceptionScore(how.extractor, seed=settings.seed)
    read = 0
    for logits, _ in settings.shards(fake.source, how):
        metric.update(logits)
        read += len(logits)
    metric.splits = min(settings.splits, max(1, read // 2))  # of the images that can be read, two a split at least
    return metric.compute()


def _pair_result(metric: Accumulator, real: ImageSource, fake: ImageSource) -> MetricResult:
    """Pairs are made by name."""
    others = {name: i for i, name in enumerate(fake.names)}
    for i, name in enumerate(real.names):
        made, original = fake.read_or_note(others[name]), real.read_or_note(i)
        if made is None or original is None:
            continue
        try:
            metric.update(made[None], original[None])
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    return metric.compute()


def _add_facts(measured: MeasuredSides) -> None:
    """Into every result: what sources say of themselves, and what could not be read."""
    results = measured.results
    _add_source(results, "real", measured.real.source)
    _add_source(results, "fake", measured.fake.source)
    if not results.unreadable:
        return
    first = ", ".join(results.unreadable[:3])
    note = f"{len(results.unreadable)} images could not be read and are left out: {first}"
    for result in results.values():
        result.warnings.append(note)


def _add_source(results: Results, name: str, source: ImageSource | None) -> None:
    """Add where images of one side came from, how they were read, and which could not be."""
    if source is None:
        return
    results.unreadable += [f"{source.path}/{note}" for note in source.unreadable]
    for result in results.values():
        result.provenance |= source.provenance()
        if source.fingerprint is not None:
            result.add_provenance(provenance_of(source.path), name)


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
    require(moments.n >= 2, f"{images.path}: fewer than 2 images can be read; a covariance needs 2")
    facts = how.extractor.provenance() | images.provenance()
    return ReferenceStatistics(moments, facts), images.unreadable
