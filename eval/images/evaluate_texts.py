"""Images against texts: `evaluate_image_text` (CLIPScore, OCR, ...) and `evaluate_detections` (GenEval).

results = evaluate_image_text(images, texts, metrics=["clip"], clip="folder/of/a/clip")
results = evaluate_image_text("records.jsonl", metrics=["clip", "refclip"], clip="folder/of/a/clip")
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mot_gen.errors import InputError, require
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import IMAGE_TEXT, choices_from, chosen_names, results_of
from mot_gen.eval.devices import device_of
from mot_gen.eval.images.clip import ClipEncoder
from mot_gen.eval.images.geneval import GenEval
from mot_gen.eval.images.sources import decode, open_images
from mot_gen.eval.jsonl import provenance_of
from mot_gen.eval.records import Given, Record, records, references_of
from mot_gen.eval.result import Results

CANDIDATES = 99  # texts of others beside an image's own, in R-precision


def evaluate_image_text(
    images: Any,
    texts: Sequence[str] | None = None,
    metrics: str | Iterable[str] = "clip",
    *,
    references: Sequence[Sequence[str]] | None = None,
    device: str = "cpu",
    as_stored: bool = False,
    **options: Any,
) -> Results:
    """Results by name: of clip, refclip, r_precision, pickscore, hpsv2, vqa, ocr.

    images: what `open_images` takes, with as many `texts`; or a jsonl of {"image", "text", "references"?} alone.
    references: texts of each image, for refclip. options: fields of `Choices`; clip may be a folder.
    """
    built = image_text_metrics(metrics, device, options)
    rows = image_text_records(images, texts, references, as_stored)
    feed_image_text(built, rows, as_stored)
    results = Results(results_of(built))
    if as_stored:
        for result in results.values():
            result.provenance["pictures"] = "as-stored"
    if texts is None:
        results.add_provenance(provenance_of(images), "samples")
    return results


def image_text_metrics(metrics: str | Iterable[str], device: str, options: Mapping[str, Any]) -> dict[str, Accumulator]:
    """The metrics by name, their models on the device; a CLIP that is named by its folder is loaded once."""
    names = chosen_names(metrics, IMAGE_TEXT, "metrics")
    given, where = dict(options), device_of(device)
    if isinstance(given.get("clip"), (str, Path)):
        given["clip"] = ClipEncoder(given["clip"]).to(where)
    built = {name: IMAGE_TEXT[name](choices_from(given)) for name in names}
    for metric in built.values():
        for model in metric.children():  # the metric's own sums stay where they are
            model.to(where)
    return built


def image_text_records(
    images: Any,
    texts: Sequence[str] | None,
    references: Sequence[Sequence[str]] | None = None,
    as_stored: bool = False,
) -> list[Record]:
    """Records with "text", and "image" (a file) or "pixels" (a function that gives (3, H, W) uint8)."""
    if texts is None:
        rows = records(images, {"image": str, "text": str})
    else:
        require(not isinstance(texts, str), "texts: must be a list, got a single text; put [ ] around it")
        source = open_images(images, as_stored=as_stored)
        if len(source) != len(texts):
            raise InputError(f"{len(source)} images against {len(texts)} texts; give one text for each image")
        listed: list[dict[str, Any]] = [{"image": name, "text": text} for name, text in zip(source.names, texts)]
        rows = records(listed, {"text": str})
        for number, row in enumerate(rows):
            row["read"] = source.read, number
            if references is not None:
                row["references"] = list(references[number])
    for row in rows:
        row["prediction"] = row["text"]
    return rows


def feed_image_text(metrics: Mapping[str, Accumulator], rows: Sequence[Record], as_stored: bool = False) -> None:
    """One record at a time, as pictures differ in size."""
    for row in rows:
        image = _image_of(row, as_stored)
        for name, metric in metrics.items():
            if name == "r_precision":
                metric.update(image, [[row["text"], *other_texts(row, rows)]])
            elif name == "refclip":
                metric.update(image, [row["text"]], [references_of(row)])
            else:
                metric.update(image, [row["text"]])


def _image_of(row: Record, as_stored: bool) -> Tensor:
    """(1, 3, H, W) uint8."""
    if "read" in row:
        read, number = row["read"]
        return read(number)[None]
    try:
        return decode(row["folder"] / row["image"], as_stored)[None]
    except (OSError, ValueError) as err:
        raise InputError(f"{row['where']}: image {row['image']!r} cannot be read ({err})") from err


def other_texts(row: Record, rows: Sequence[Record]) -> list[str]:
    """Up to 99 texts of other records that say something else, drawn by the record's number."""
    texts = sorted({other["text"] for other in rows} - {row["text"]})
    require(texts, "r_precision: all texts are the same, so there is none to confuse an image's own with")
    return random.Random(row["line"]).sample(texts, min(CANDIDATES, len(texts)))


def evaluate_detections(detections: Given, *, detector: str = "unstated", confidence: float | None = None) -> Results:
    """GenEval's scores of detections, a jsonl or dictionaries as mot_gen.eval.images.geneval has them."""
    metric, _ = detections_metric(detections, detector, confidence)
    return Results(metric.compute())


def detections_metric(
    detections: Given, detector: str = "unstated", confidence: float | None = None
) -> tuple[GenEval, list[Record]]:
    """The metric, fed, and the records that it was fed with."""
    metric = GenEval(detector=detector, confidence=confidence)
    rows = records(detections, {"tag": str, "include": list, "detections": list})
    metric.update(rows)
    return metric, rows
