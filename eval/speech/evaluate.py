"""Speech against references: `evaluate_speech`, of transcripts, speech units or sounds.

results = evaluate_speech(["one two"], ["one two three"], metrics=["wer", "cer"])
results = evaluate_speech([waveform], [waveform], metrics=["mcd"], sample_rate=22050)     # tensors, arrays or files
results = evaluate_speech("records.jsonl", metrics="wer,fad")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mot_gen.errors import InputError, expect, require, with_name
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import SAMPLE_RATE, SOUND, SPEECH, choices_from, chosen_names, results_of
from mot_gen.eval.jsonl import provenance_of
from mot_gen.eval.records import Given, Kind, Record, only_reference, records, records_of, require_file_alone
from mot_gen.eval.result import Results
from mot_gen.eval.speech.audio import checked_waveforms

DEFAULT = ("wer", "cer")


def evaluate_speech(
    predictions: Given | Sequence[Any],
    references: Sequence[Any] | None = None,
    metrics: str | Iterable[str] = DEFAULT,
    *,
    sample_rate: int = SAMPLE_RATE,
    **options: Any,
) -> Results:
    """Results by name: of wer, cer, mer, wil (transcripts), uer (lists of integers), mcd, fad, speaker, mos (sounds).

    predictions, references: one each, all transcripts, all units, or all sounds: files, or waveforms (T,) in [-1, 1] at
    `sample_rate`. Or a jsonl or dictionaries of {"prediction", "references": [one], "prediction_audio",
    "reference_audio"}, which may hold all of them. options: fields of `Choices`.
    """
    names = chosen_names(metrics, SPEECH, "metrics")
    built = speech_metrics(names, options)
    rows = speech_records(names, predictions, references)
    feed_speech(built, rows, sample_rate)
    results = Results(results_of(built))
    if isinstance(predictions, (str, Path)):
        results.add_provenance(provenance_of(predictions), "samples")
    return results


def speech_metrics(metrics: str | Iterable[str], options: Mapping[str, Any]) -> dict[str, Accumulator]:
    """The metrics by name."""
    choices = choices_from(options)
    return {name: SPEECH[name](choices) for name in chosen_names(metrics, SPEECH, "metrics")}


def speech_records(
    names: Iterable[str], predictions: Given | Sequence[Any], references: Sequence[Any] | None = None
) -> list[Record]:
    """Records with the fields that the named metrics read."""
    hears = [name for name in names if name in SOUND]
    reads = [name for name in names if name not in SOUND]
    fields: dict[str, Kind] = {"prediction": (str, list)} if reads else {}
    require_file_alone(predictions, references)
    if isinstance(predictions, (str, Path)):
        return records(predictions, fields | _sounds_of(hears))
    if references is None and (not hears or _are_records(predictions)):
        return records(predictions, fields)
    if references is None and hears != ["mos"]:
        raise InputError(f"{hears[0]} needs references; give one for each prediction")
    if hears and reads:
        raise InputError(f"{reads[0]} reads texts and {hears[0]} hears sounds; measure them in two calls")
    if hears or references is None:
        return records(records_of(prediction_audio=predictions, reference_audio=references), {})
    made = [_listed(one) for one in predictions]
    wanted = [_one_of(own) for own in references]
    return records(records_of(prediction=made, references=wanted), fields)


def _are_records(predictions: Sequence[Any]) -> bool:
    return len(predictions) > 0 and isinstance(predictions[0], Mapping)


def _sounds_of(metrics: Sequence[str]) -> dict[str, Kind]:
    """The fields of a file that these metrics of sounds read; mos hears the prediction alone."""
    fields: dict[str, Kind] = {}
    if metrics:
        fields["prediction_audio"] = str
    if {*metrics} - {"mos"}:
        fields["reference_audio"] = str
    return fields


def _listed(units: Any) -> Any:
    """Speech units as a list; texts as they are."""
    if isinstance(units, (Tensor, np.ndarray)):
        return units.tolist()
    return units


def _one_of(reference: Any) -> list[Any]:
    """A list of references from one text, one list of units, or a list that holds a reference already."""
    if isinstance(reference, list) and reference and isinstance(reference[0], (str, list)):
        return reference
    return [_listed(reference)]


def feed_speech(metrics: Mapping[str, Accumulator], rows: Sequence[Record], sample_rate: int = SAMPLE_RATE) -> None:
    """Every record into every metric, one at a time, as sounds differ in length."""
    for name, metric in metrics.items():
        for row in rows:
            try:
                if name in SOUND:
                    _feed_sound(name, metric, row, sample_rate)
                else:
                    metric.update([row["prediction"]], [[only_reference(row, name)]])
            except InputError as error:
                raise InputError(with_name(row["where"], error)) from error


def _feed_sound(name: str, metric: Accumulator, row: Record, sample_rate: int) -> None:
    made = _sound(row, "prediction_audio", sample_rate)
    if name == "mos":
        metric.update([made])
        return
    real = _sound(row, "reference_audio", sample_rate)
    if name == "fad":
        metric.update(made[None], real=False)
        metric.update(real[None], real=True)
    else:
        metric.update([made], [real])


def _sound(row: Record, key: str, sample_rate: int) -> Tensor:
    if key not in row:
        raise InputError(f"field {key!r} is absent; every record needs it")
    sound = row[key]
    if isinstance(sound, (str, Path)):
        return waveform(row["folder"] / sound)
    try:
        checked = checked_waveforms(torch.as_tensor(sound)[None])
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    return _at_rate(checked[0], sample_rate)


def waveform(path: Path) -> Tensor:
    """(T,) float32 at 16 kHz of a sound file, channels averaged."""
    import soundfile

    require(path.is_file(), f"{path}: no such file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as err:
        raise InputError(f"{path}: sound cannot be read ({err}); give a file that soundfile knows") from err
    return _at_rate(torch.from_numpy(samples).mean(1), rate)


def _at_rate(sound: Tensor, sample_rate: int) -> Tensor:
    is_rate = isinstance(sample_rate, int) and sample_rate > 0
    expect(is_rate, "sample_rate must be a positive integer, in Hz", sample_rate)
    from torchaudio.functional import resample

    return resample(sound, sample_rate, SAMPLE_RATE).clamp(-1, 1)
