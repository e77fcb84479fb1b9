"""`mot-gen eval text`, `eval speech`, `eval image-text`, `eval geneval`: arguments to calls, results to reports.

text, speech: {"id", "prediction", "references": [...]}; text for bits_per_byte also "nats", the loss of the first
reference under a model; speech also {"prediction_audio", "reference_audio"}, files beside the jsonl. image-text:
{"image", "text", "references"?: [...]}. geneval: as mot_gen.eval.images.geneval says.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mot_gen.commands.without_torch import refuse_early
from mot_gen.eval.by_name import IMAGE_TEXT, SPEECH, MetricOptions, chosen_names, results_of
from mot_gen.eval.jsonl import provenance_of, read_jsonl
from mot_gen.eval.text.evaluate import chosen_texts, feed_text, text_metrics, text_records

if TYPE_CHECKING:
    from mot_gen.eval.accumulator import Accumulator
    from mot_gen.eval.records import Record


def text(args: argparse.Namespace) -> int:
    """`eval text`. Names and records are looked at before metrics are made, which brings torch."""
    names = chosen_texts(args.metrics)
    rows = text_records(args.file)
    refuse_early(lambda: text_metrics(names, choices_of(args)))
    metrics = text_metrics(names, choices_of(args))
    feed_text(metrics, rows)
    return finish(args, metrics, rows)


def speech(args: argparse.Namespace) -> int:
    """`eval speech`."""
    names = chosen_names(args.metrics, SPEECH, "metrics")
    _check_lines(args.file)
    refuse_early(lambda: _speech_metrics(names, args))

    from mot_gen.eval.speech.evaluate import feed_speech, speech_records

    rows = speech_records(names, args.file)
    metrics = _speech_metrics(names, args)
    feed_speech(metrics, rows)
    return finish(args, metrics, rows)


def _speech_metrics(names: list[str], args: argparse.Namespace) -> dict[str, Accumulator]:
    from mot_gen.eval.speech.evaluate import speech_metrics

    return speech_metrics(names, choices_of(args))


def image_text(args: argparse.Namespace) -> int:
    """`eval image-text`."""
    chosen_names(args.metrics, IMAGE_TEXT, "metrics")
    _check_lines(args.file)
    refuse_early(lambda: _image_text_metrics(args))

    from mot_gen.eval.images.evaluate_texts import feed_image_text, image_text_records

    rows = image_text_records(args.file, None)
    metrics = _image_text_metrics(args)
    feed_image_text(metrics, rows)
    return finish(args, metrics, rows)


def _image_text_metrics(args: argparse.Namespace) -> dict[str, Accumulator]:
    from mot_gen.eval.images.evaluate_texts import image_text_metrics

    return image_text_metrics(args.metrics, args.device, choices_of(args))


def geneval(args: argparse.Namespace) -> int:
    """`eval geneval`."""
    _check_lines(args.file)

    from mot_gen.eval.images.evaluate_texts import detections_metric

    metric, rows = detections_metric(args.file, args.detector, args.confidence)
    return finish(args, {"geneval": metric}, rows)


def _check_lines(file: str) -> None:
    """InputError for a file that is no JSON, before torch is imported to measure what it says."""
    for _ in read_jsonl(file):
        pass


def choices_of(args: argparse.Namespace) -> dict[str, Any]:
    """The choices that the command line gives."""
    given = {}
    for choice in fields(MetricOptions):
        value = getattr(args, choice.name, None)
        if value is not None:
            given[choice.name] = value
    return given


def finish(args: argparse.Namespace, metrics: Mapping[str, Accumulator], rows: Sequence[Record]) -> int:
    """Compute, then table, JSON, HTML."""
    from mot_gen.commands.eval_report import report, worst_sections

    results = results_of(metrics)
    for result in results.values():
        result.add_provenance(provenance_of(args.file), "samples")
    return report(args, args.eval_command, results, lambda: worst_sections(metrics, rows))
