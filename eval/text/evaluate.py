"""Texts against references: `evaluate_text`.

results = evaluate_text(["the cat sat"], [["a cat sat"]], metrics=["bleu", "rouge1", "wer"])
results = evaluate_text("predictions.jsonl", metrics="bleu,chrf")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mot_gen.errors import require
from mot_gen.eval.by_name import (
    ERROR_RATES,
    LIKELIHOOD,
    TEXT,
    choices_from,
    chosen_names,
    results_of,
    update_text,
)
from mot_gen.eval.jsonl import provenance_of
from mot_gen.eval.records import (
    Given,
    Record,
    only_reference,
    records,
    records_of,
    references_of,
    require_fields,
    require_file_alone,
)
from mot_gen.eval.result import Results
from mot_gen.eval.text.own_metric import own_metric

if TYPE_CHECKING:
    from mot_gen.eval.accumulator import Accumulator

METRICS = {**TEXT, **LIKELIHOOD}
DEFAULT = ("bleu", "chrf", "ter", "rouge")


def evaluate_text(
    predictions: Given | Sequence[str],
    references: Sequence[Sequence[str] | str] | None = None,
    metrics: str | Iterable[str] = DEFAULT,
    *,
    nats: Sequence[float] | None = None,
    **options: Any,
) -> Results:
    """Results by name, of the names in `by_name.TEXT`, bits_per_byte, and metrics of your own, "package.module:Class".

    predictions: texts, with a list of `references` for each (or one text); or a jsonl or dictionaries of {"prediction",
    "references"}. nats: the loss of each first reference under a model, for bits_per_byte. options: fields of
    `Choices`.
    """
    names = chosen_texts(metrics)
    rows = text_records(predictions, references, nats)
    built = text_metrics(names, options)
    feed_text(built, rows)
    results = Results(results_of(built))
    if isinstance(predictions, (str, Path)):
        results.add_provenance(provenance_of(predictions), "samples")
    return results


def text_metrics(metrics: str | Iterable[str], options: Mapping[str, Any]) -> dict[str, Accumulator]:
    """The metrics by name."""
    choices = choices_from(options)
    return {name: _builder(name)(choices) for name in chosen_texts(metrics)}


def _builder(name: str) -> Any:
    """What makes a metric of `Choices`."""
    return METRICS[name] if name in METRICS else own_metric(name)


def chosen_texts(metrics: str | Iterable[str]) -> list[str]:
    """The names in `metrics`, each once; one with a colon is a metric of your own. InputError for an unknown one."""
    listed = metrics.split(",") if isinstance(metrics, str) else list(metrics)
    own = [name.strip() for name in listed if ":" in name]
    for name in listed:
        of_a_module = "." in name and ":" not in name
        how = "one of your own is named by module and class, as in my_package.my_module:MyMetric"
        require(not of_a_module, f"metrics: {name!r} is not known; {how}")
    for name in own:
        own_metric(name)
    return chosen_names(listed, [*METRICS, *own], "metrics")


def text_records(
    predictions: Given | Sequence[str],
    references: Sequence[Sequence[str] | str] | None = None,
    nats: Sequence[float] | None = None,
) -> list[Record]:
    """Records with "prediction", from a file, dictionaries or lists."""
    require_file_alone(predictions, references)
    by_name = isinstance(predictions, Mapping)
    require(not by_name, "predictions: give a list of texts, a file, or a list of records with a prediction each")
    if isinstance(predictions, (str, Path)) or (predictions and isinstance(predictions[0], Mapping)):
        return records(predictions, {"prediction": str})  # type: ignore[arg-type]  # no list of texts here
    listed = records_of(prediction=predictions, references=references, nats=nats)
    return records(listed, {"prediction": str})


def feed_text(metrics: Mapping[str, Accumulator], rows: Sequence[Record]) -> None:
    """Every record into every metric."""
    predictions = [row["prediction"] for row in rows]
    for name, metric in metrics.items():
        own = []
        if metric.takes != "predictions":
            own = [[only_reference(row, name)] if name in ERROR_RATES else references_of(row) for row in rows]
        if name == "bits_per_byte":
            metric.update(_nats(rows), [first for first, *_ in own])
        else:
            update_text(metric, predictions, own)


def _nats(rows: Sequence[Record]) -> list[float]:
    """The loss of each record; InputError where one has none."""
    for row in rows:
        require_fields(row, {"nats": (float, int)}, row["where"])
    return [row["nats"] for row in rows]
