"""`mot-gen eval images REAL FAKE` and `mot-gen eval stats DIR`: sources to features to metrics to a report."""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import PAIRS, SETS, Choices, chosen, results_of
from mot_gen.eval.images.extraction import Extraction, default_cache, extract_shards, thumbnails
from mot_gen.eval.images.extractors import load_extractor
from mot_gen.eval.images.inception_score import InceptionScore
from mot_gen.eval.images.moments import merge_moments, moments_of
from mot_gen.eval.images.nearest import nearest_neighbours, worst_cases
from mot_gen.eval.images.sources import ImageSource, open_images, provenance_of
from mot_gen.eval.images.statistics import ReferenceStatistics
from mot_gen.eval.report import html_page, picture_rows, print_table, to_json, write_json
from mot_gen.eval.result import MetricResult
from mot_gen.files.progress import counted
from mot_gen.files.whole import write_text

METRICS = (*SETS, "is", *PAIRS)
SHOWN, NEIGHBOURS = 16, 4  # samples in the HTML page, and real neighbours beside each


def images(args: argparse.Namespace) -> int:
    """`eval images`: every metric asked for, over two sources or a source and reference statistics."""
    names = chosen(args.metrics, METRICS)
    stats = ReferenceStatistics.load(args.real) if is_statistics(args.real) else None
    if stats is not None and (other := [name for name in names if name not in ("fd", "is")]):
        raise InputError(f"{args.real}: statistics are enough for fd, not for {', '.join(other)}; give the images")
    fake = open_images(args.fake, args.max_unreadable)
    real = None if stats is not None else open_images(args.real, args.max_unreadable)
    pairs = [name for name in names if name in PAIRS]
    if pairs:
        _require_pairs(pairs[0], real, fake)
    results, kept = {}, None
    if wanted := [name for name in names if name in SETS]:
        kept = _set_results(args, wanted, real, fake, stats, results)
    if "is" in names:
        results["is"] = _inception_score(args, fake)
    for name in pairs:
        results[name] = _pair_result(PAIRS[name](Choices(args.confidence, lpips=args.lpips)), real, fake)
    sources = [source for source in (real, fake) if source is not None]
    return finish(args, results, sources, lambda: _sections(real, fake, kept))


def stats(args: argparse.Namespace) -> int:
    """`eval stats`: reference statistics of a source, as a file with a fingerprint."""
    source, how = open_images(args.source, args.max_unreadable), extraction(args)
    moments = None
    with counted(len(source), source.path) as how.on_progress:
        for features, _ in extract_shards(source, how):
            if len(features):
                moments = moments_of(features) if moments is None else merge_moments(moments, moments_of(features))
    if moments is None or moments.n < 2:
        raise InputError(f"{source.path}: fewer than 2 images can be read; a covariance needs 2")
    made = ReferenceStatistics(moments, how.extractor.provenance())
    made.save(args.out)
    told = {"path": str(args.out), "n": moments.n, "d": len(moments.mean), "fingerprint": made.fingerprint}
    print(f"{args.out}: n {moments.n}, d {told['d']}, fingerprint {made.fingerprint}", file=sys.stderr)
    if args.json:
        write_json({**told, **made.provenance, "unreadable": source.unreadable}, args.json)
    return 0


def is_statistics(path: str) -> bool:
    """Whether a file is one that `eval stats` made."""
    if Path(path).suffix != ".npz" or not Path(path).is_file():
        return False
    with np.load(path, allow_pickle=False) as data:
        return "header" in data


def extraction(args: argparse.Namespace, output: str = "features") -> Extraction:
    """How to extract, from the command line."""
    options = {"output": output}
    for key in ("resize", "dtype"):
        if getattr(args, key):
            options[key] = getattr(args, key)
    if args.download and args.extractor == "fid-inception":
        options["download"] = True
    extractor = load_extractor(args.extractor, weights=args.weights, **options).to(args.device)
    cache = None if args.no_cache else Path(args.cache or default_cache())
    return Extraction(extractor, cache, args.batch_size, args.workers, output)


Kept = dict[bool, tuple[Tensor, list[int]]]  # by whether real: features, and the numbers of their images


def _set_results(args, names, real, fake, stats, results: dict[str, MetricResult]) -> Kept | None:
    """Fills `results`; returns the features themselves where a page will show neighbours."""
    how = extraction(args)
    if stats is not None:
        stats.require(how.extractor.provenance(), args.real)
    choices = Choices(args.confidence, args.seed, extractor=how.extractor, reference=stats)
    metrics = {name: SETS[name](choices) for name in names}
    kept = {}
    for side, source in ((True, real), (False, fake)):
        if source is not None:
            kept[side] = _feed(metrics.values(), source, how, side, keep=bool(args.html))
    results.update(results_of(metrics))
    return kept if args.html and len(kept) == 2 else None


def _feed(metrics, source: ImageSource, how: Extraction, real: bool, keep: bool) -> tuple[Tensor, list[int]]:
    parts, numbers = [], []
    with counted(len(source), source.path) as how.on_progress:
        for features, own in extract_shards(source, how):
            if not own:
                continue
            for metric in metrics:
                metric.update(features, real=real)
            if keep:
                parts.append(features)
                numbers += own
    return (torch.cat(parts) if parts else torch.zeros(0, 0)), numbers


def _inception_score(args: argparse.Namespace, fake: ImageSource) -> MetricResult:
    how = extraction(args, output="logits")
    splits = min(args.splits, max(1, len(fake) // 2))
    metric = InceptionScore(how.extractor, splits=splits, seed=args.seed)
    with counted(len(fake), fake.path) as how.on_progress:
        for logits, numbers in extract_shards(fake, how):
            if numbers:
                metric.update(logits)
    return metric.compute()


def _require_pairs(metric: str, real: ImageSource, fake: ImageSource):
    """InputError for a name that only one side has, before anything is computed."""
    if absent := sorted(set(real.names) ^ set(fake.names)):
        raise InputError(f"{metric}: {absent[0]!r} is in one of {real.path} and {fake.path} only; pairs need both")


def _pair_result(metric: Accumulator, real: ImageSource, fake: ImageSource) -> MetricResult:
    """Pairs are made by name."""
    others = {name: i for i, name in enumerate(fake.names)}
    for i, name in enumerate(real.names):
        pair = fake.read_or_note(others[name]), real.read_or_note(i)
        if None not in [one if one is None else True for one in pair]:
            metric.update(*(image[None] for image in pair))
    return metric.compute()


def finish(args, results: dict[str, MetricResult], sources: list[ImageSource], sections) -> int:
    """Table, provenance of the samples, warnings about what could not be read, JSON, HTML."""
    for source, result in product(sources, results.values()):
        result.add_provenance(provenance_of(source.path), "real" if source.path == args.real else "fake")
    unreadable = [f"{source.path}/{note}" for source in sources for note in source.unreadable]
    if unreadable:
        note = f"{len(unreadable)} images could not be read and are left out: {', '.join(unreadable[:3])}"
        for result in results.values():
            result.warnings.append(note)
    if args.json != "-":
        print_table(results)
    if args.json:
        write_json(to_json(results, unreadable=unreadable), args.json)
    if args.html:
        write_text(args.html, html_page("mot-gen eval images", results, sections()))
    return 0


def _sections(real: ImageSource | None, fake: ImageSource, kept: Kept | None) -> list[tuple[str, str]]:
    if real is None or kept is None:
        shown = list(range(min(SHOWN, len(fake))))
        return [("Samples", picture_rows([[_shown(fake, i) for i in shown]]))]
    (real_features, real_numbers), (fake_features, fake_numbers) = kept[True], kept[False]

    def beside(rows: list[int]) -> str:
        indices, distances = nearest_neighbours(fake_features[rows], real_features, NEIGHBOURS)
        return picture_rows(
            [
                [_shown(fake, fake_numbers[row])]
                + [_shown(real, real_numbers[i], f"{d:.3g}") for i, d in zip(found.tolist(), far.tolist())]
                for row, found, far in zip(rows, indices, distances)
            ]
        )

    some = torch.linspace(0, len(fake_numbers) - 1, min(SHOWN, len(fake_numbers))).round().int().tolist()
    worst = worst_cases(fake_features, real_features, SHOWN)
    return [
        ("Samples, each with its nearest real images and their distance", beside(some)),
        ("Worst cases: samples farthest from any real image", beside(worst)),
    ]


def _shown(source: ImageSource, number: int, note: str = "") -> tuple[Tensor, str]:
    return thumbnails(source, [number])[0], f"{source.names[number]} {note}".strip()
