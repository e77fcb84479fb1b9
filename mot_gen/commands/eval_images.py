"""`mot-gen eval images REAL FAKE` and `mot-gen eval stats DIR`: arguments to settings, and results to reports."""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from mot_gen.commands.eval_report import Section, report
from mot_gen.eval.by_name import OF_IMAGES, chosen_names
from mot_gen.eval.images.evaluate import MeasuredSides, measure_images, open_sides, reference_statistics
from mot_gen.eval.images.extraction import default_cache, thumbnails
from mot_gen.eval.images.image_pairs import lpips_trunk
from mot_gen.eval.images.nearest import nearest_neighbours, worst_cases
from mot_gen.eval.images.settings import ImageSettings
from mot_gen.eval.images.sources import ImageSource
from mot_gen.eval.report import picture_rows, write_json

SHOWN, NEIGHBOURS = 16, 4  # samples in the HTML page, and real neighbours beside each


def check_sides(args: argparse.Namespace) -> None:
    """InputError where there are no images."""
    open_sides(args.real, args.fake, chosen_names(args.metrics, OF_IMAGES, "metrics"), settings_of(args))


def check_lpips(args: argparse.Namespace) -> None:
    """InputError where LPIPS is asked for and its weights are not there, or are others."""
    if "lpips" in chosen_names(args.metrics, OF_IMAGES, "metrics"):
        lpips_trunk("alex", args.lpips)


def check_source(args: argparse.Namespace) -> None:
    """InputError where there are no images to make statistics of."""
    settings_of(args).open(args.source, "source")


def check_extractor(args: argparse.Namespace) -> None:
    """InputError for an extractor that is not there."""
    settings_of(args).extraction()


def images(args: argparse.Namespace) -> int:
    """`eval images`: every metric asked for, over two sources or a source and reference statistics."""
    measured = measure_images(args.real, args.fake, args.metrics, settings_of(args), keep_features=bool(args.html))
    return report(args, "images", measured.results, lambda: sections(measured), unreadable=measured.results.unreadable)


def stats(args: argparse.Namespace) -> int:
    """`eval stats`: reference statistics of a source, as a file with a fingerprint."""
    made, unreadable = reference_statistics(args.source, **vars(settings_of(args)))
    made.save(args.out)
    n, d = made.moments.n, len(made.moments.mean)
    print(f"{args.out}: n {n}, d {d}, fingerprint {made.fingerprint}", file=sys.stderr)
    if args.json:
        told = {"path": str(args.out), "n": n, "d": d, "fingerprint": made.fingerprint}
        write_json({**told, **made.provenance, "unreadable": unreadable}, args.json)
    return 0


def settings_of(args: argparse.Namespace) -> ImageSettings:
    """The settings that the command line gives; those that it does not have keep their defaults."""
    given = {}
    for name in vars(ImageSettings()):
        value = getattr(args, name, None)
        if value is not None:
            given[name] = value
    given["cache"] = None if args.no_cache else Path(args.cache or default_cache())
    return ImageSettings(**given, show_progress=True)


def sections(measured: MeasuredSides) -> list[Section]:
    """Samples beside their nearest real images, and the worst cases; samples alone where there are no features."""
    real, fake = measured.real, measured.fake
    assert fake.source is not None  # the command gives paths, never features
    if real.source is None or real.kept is None or fake.kept is None:
        readable = (i for i in range(len(fake.source)) if fake.source.read_or_note(i) is not None)
        return [("Samples", picture_rows([[_shown(fake.source, i) for i in islice(readable, SHOWN)]]))]
    beside = NearestRows(real.source, fake.source, *real.kept, *fake.kept)
    count = len(beside.fake_numbers)
    some = torch.linspace(0, count - 1, min(SHOWN, count)).round().int().tolist()
    worst = worst_cases(beside.fake_features, beside.real_features, SHOWN)
    return [
        ("Samples, each with its nearest real images and their distance", beside.rows(some)),
        ("Worst cases: samples farthest from any real image", beside.rows(worst)),
    ]


class NearestRows:
    """Rows of pictures: samples, each followed by the real images that are nearest to it."""

    def __init__(
        self,
        real: ImageSource,
        fake: ImageSource,
        real_features: Tensor,
        real_numbers: list[int],
        fake_features: Tensor,
        fake_numbers: list[int],
    ):
        self.real, self.fake = real, fake
        self.real_features, self.real_numbers = real_features, real_numbers
        self.fake_features, self.fake_numbers = fake_features, fake_numbers

    def rows(self, samples: list[int]) -> str:
        """HTML of some samples, by their place among the features."""
        indices, distances = nearest_neighbours(self.fake_features[samples], self.real_features, NEIGHBOURS)
        rows = []
        for sample, found, far in zip(samples, indices.tolist(), distances.tolist()):
            row = [_shown(self.fake, self.fake_numbers[sample])]
            for number, distance in zip(found, far):
                row.append(_shown(self.real, self.real_numbers[number], f"{distance:.3g}"))
            rows.append(row)
        return picture_rows(rows)


def _shown(source: ImageSource, number: int, note: str = "") -> tuple[Tensor, str]:
    return thumbnails(source, [number])[0], f"{source.names[number]} {note}".strip()
