"""`mot-gen eval text`, `eval speech`, `eval image-text`, `eval geneval`: arguments to calls, results to reports.

text, speech: {"id", "prediction", "references": [...]}; text for bits_per_byte also "nats", the loss of the first
reference under a model; speech also {"prediction_audio", "reference_audio"}, files beside the jsonl. image-text:
{"image", "text", "references"?: [...]}. geneval: as mot_gen.eval.images.geneval says.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mot_gen.commands.eval_report import report, worst_sections
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import Choices, results_of
from mot_gen.eval.images.evaluate_texts import (
    detections_metric,
    feed_image_text,
    image_text_metrics,
    image_text_records,
)
from mot_gen.eval.jsonl import provenance_of
from mot_gen.eval.records import Record
from mot_gen.eval.speech.evaluate import feed_speech, speech_metrics, speech_records
from mot_gen.eval.text.evaluate import feed_text, text_metrics, text_records


def text(args: argparse.Namespace) -> int:
    """`eval text`."""
    metrics = text_metrics(args.metrics, choices_of(args))
    rows = text_records(args.file)
    feed_text(metrics, rows)
    return finish(args, metrics, rows)


def speech(args: argparse.Namespace) -> int:
    """`eval speech`."""
    metrics = speech_metrics(args.metrics, choices_of(args))
    rows = speech_records(metrics, args.file)
    feed_speech(metrics, rows)
    return finish(args, metrics, rows)


def image_text(args: argparse.Namespace) -> int:
    """`eval image-text`."""
    metrics = image_text_metrics(args.metrics, args.device, choices_of(args))
    rows = image_text_records(args.file, None)
    feed_image_text(metrics, rows)
    return finish(args, metrics, rows)


def geneval(args: argparse.Namespace) -> int:
    """`eval geneval`."""
    metric, rows = detections_metric(args.file, args.detector, args.confidence)
    return finish(args, {"geneval": metric}, rows)


def choices_of(args: argparse.Namespace) -> dict[str, Any]:
    """The choices that the command line gives."""
    given = {}
    for choice in fields(Choices):
        value = getattr(args, choice.name, None)
        if value is not None:
            given[choice.name] = value
    return given


def finish(args: argparse.Namespace, metrics: Mapping[str, Accumulator], rows: Sequence[Record]) -> int:
    """Compute, then table, JSON, HTML."""
    results = results_of(metrics)
    for result in results.values():
        result.add_provenance(provenance_of(args.file), "samples")
    return report(args, args.eval_command, results, lambda: worst_sections(metrics, rows))
