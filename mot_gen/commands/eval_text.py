"""`mot-gen eval text`, `eval speech`, `eval image-text`, `eval geneval`: a jsonl to metrics to a report.

text, speech: {"id", "prediction", "references": [...]}; text for bits_per_byte also "nats", the loss of the first
reference under a model; speech also {"prediction_audio", "reference_audio"}, files beside the jsonl. image-text:
{"image", "text", "references"?: [...]}. geneval: as mot_gen.eval.images.geneval says.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import (
    IMAGE_TEXT,
    LIKELIHOOD,
    SAMPLE_RATE,
    SPEECH,
    TEXT,
    Builder,
    Choices,
    chosen,
    results_of,
    update_text,
)
from mot_gen.eval.images.clip import ClipEncoder
from mot_gen.eval.images.geneval import GenEval
from mot_gen.eval.images.sources import decode, provenance_of, read_jsonl
from mot_gen.eval.report import html_page, print_table, text_rows, to_json, write_json
from mot_gen.files.whole import write_text

WORST = 20


def text(args: argparse.Namespace) -> int:
    """`eval text`."""
    metrics = built({**TEXT, **LIKELIHOOD}, args)
    rows = records(args.file, {"prediction": str})
    for name, metric in metrics.items():
        own = [] if metric.takes == "predictions" else references(args.file, rows)
        if name == "bits_per_byte":
            records(args.file, {"nats": float})
            metric.update([row["nats"] for row in rows], [first for first, *_ in own])
        else:
            update_text(metric, [row["prediction"] for row in rows], own)
    return finish(args, metrics, rows)


def speech(args: argparse.Namespace) -> int:
    """`eval speech`."""
    metrics = built(SPEECH, args)
    sound = {name for name in metrics if name in ("mcd", "fad")}
    fields = {"prediction": (str, list)} if metrics.keys() - sound else {}
    rows = records(
        args.file, {**fields, **dict.fromkeys(("prediction_audio", "reference_audio") if sound else (), str)}
    )
    for name, metric in metrics.items():
        for row in rows:
            _hear(metric, name, row, args.file)
    return finish(args, metrics, rows)


def _hear(metric: Accumulator, name: str, row: dict, path: str):
    if name not in ("mcd", "fad"):
        (own,) = references(path, [row])
        if len(own) != 1:
            raise InputError(f"{path}:{row['line']}: {len(own)} references, but {name} is defined with one; choose one")
        metric.update([row["prediction"]], own)
        return
    made, real = (waveform(Path(path).parent / row[key]) for key in ("prediction_audio", "reference_audio"))
    if name == "mcd":
        metric.update([made], [real])
    else:
        metric.update(made[None], real=False)
        metric.update(real[None], real=True)


def image_text(args: argparse.Namespace) -> int:
    """`eval image-text`."""
    metrics = built(IMAGE_TEXT, args)
    rows = records(args.file, {"image": str, "text": str})
    for row in rows:
        row["prediction"] = row["text"]
        try:
            image = decode(Path(args.file).parent / row["image"])[None]
        except OSError as err:
            raise InputError(f"{args.file}:{row['line']}: image {row['image']!r} cannot be read ({err})") from err
        for name, metric in metrics.items():
            if name == "r_precision":
                metric.update(image, [[row["text"], *others(row, rows)]])
            else:
                metric.update(image, [row["text"]], *([references(args.file, [row])] if name == "refclip" else []))
    return finish(args, metrics, rows)


def others(row: dict, rows: list[dict]) -> list[str]:
    """Up to 99 texts of other lines that say something else, drawn by the line's number."""
    texts = sorted({other["text"] for other in rows} - {row["text"]})
    if not texts:
        raise InputError("r_precision: all texts are the same, so there is none to confuse an image's own with")
    return random.Random(row["line"]).sample(texts, min(99, len(texts)))


def geneval(args: argparse.Namespace) -> int:
    """`eval geneval`."""
    metric = GenEval(detector=args.detector, confidence=args.confidence)
    rows = records(args.file, {"tag": str, "include": list, "detections": list})
    metric.update(rows)
    return finish(args, {"geneval": metric}, rows)


def records(path: str, fields: dict[str, type | tuple[type, ...]]) -> list[dict]:
    """Objects of a jsonl with their line numbers; InputError where a field is absent or of another type."""
    rows = []
    for number, record in read_jsonl(path):
        for key, kind in fields.items():
            if not isinstance(record.get(key), kind):
                found = f"is {type(record[key]).__name__}" if key in record else "is absent"
                raise InputError(f"{path}:{number}: field {key!r} {found}; every line needs it")
        rows.append({"id": str(number), **record, "line": number})
    if not rows:
        raise InputError(f"{path}: holds no records; write one JSON object a line")
    return rows


def references(path: str, rows: list[dict]) -> list[list]:
    """The references of every record, InputError where one has none."""
    found = []
    for row in rows:
        own = row.get("references", row.get("reference"))
        own = [own] if isinstance(own, str) else own
        if not isinstance(own, list) or not own:
            raise InputError(
                f"{path}:{row['line']}: field 'references' is absent or empty; give a list of at least one"
            )
        found.append(own)
    return found


def waveform(path: Path) -> Tensor:
    """(T,) float32 at 16 kHz of a sound file, channels averaged."""
    import soundfile
    from torchaudio.functional import resample

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as err:
        raise InputError(f"{path}: sound cannot be read ({err}); give a file that soundfile knows") from err
    return resample(torch.from_numpy(samples).mean(1), rate, SAMPLE_RATE).clamp(-1, 1)


def built(builders: dict[str, Builder], args: argparse.Namespace) -> dict[str, Accumulator]:
    """The metrics that were asked for, with the settings that this command's arguments give."""
    names = chosen(args.metrics, builders)
    given = {name: getattr(args, name) for name in vars(Choices()) if getattr(args, name, None) is not None}
    if "clip" in given:
        given["clip"] = ClipEncoder(args.clip).to(args.device)
    return {name: builders[name](Choices(**given)) for name in names}


def finish(args: argparse.Namespace, metrics: dict[str, Accumulator], rows: list[dict]) -> int:
    """Compute, then table, JSON, HTML."""
    results = results_of(metrics)
    for result in results.values():
        result.add_provenance(provenance_of(args.file), "samples")
    if args.json != "-":
        print_table(results)
    if args.json:
        write_json(to_json(results), args.json)
    if args.html:
        page = html_page(f"mot-gen eval {args.eval_command}", results, worst_sections(metrics, rows))
        write_text(args.html, page)
    return 0


def worst_sections(metrics: dict[str, Accumulator], rows: list[dict]) -> list[tuple[str, str]]:
    """The worst cases of every metric that scores single records."""
    sections = []
    for name, metric in metrics.items():
        scores = metric.segment_scores() if hasattr(metric, "segment_scores") else []
        if len(scores) != len(rows):
            continue
        order = sorted(range(len(rows)), key=scores.__getitem__, reverse=not metric.higher_is_better)[:WORST]
        shown = [(rows[i]["id"], f"{scores[i]:.4g}", *_told(rows[i])) for i in order]
        sections.append((f"Worst cases by {name}", text_rows(("id", "score", "prediction", "references"), shown)))
    return sections


def _told(row: dict) -> tuple[str, str]:
    made = row.get("prediction", row.get("prediction_audio", row.get("tag", "")))
    wanted = row.get("references", row.get("reference_audio", row.get("image", "")))
    return str(made), " / ".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)
