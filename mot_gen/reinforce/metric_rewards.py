"""Metrics of `mot-gen eval` as rewards: asked_by, metric_reward. Those count that score one sample by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from mot_gen.errors import InputError, nearest
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import IMAGE_TEXT, TEXT, MetricOptions, choices_from, results_of, update_text
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.text.segments import SegmentTable

# What they say of one sample alone means nothing.
OF_SETS = ("mauve", "self_bleu", "r_precision", "cider", "cider-d")


def asked_by(where: str, name: str, options: dict[str, Any], others: Sequence[str]) -> Sequence[str]:
    """The field of `Samples` that a metric is about; no model is loaded. InputError for a metric that is no reward, or
    lacks what it needs. The arguments are those of `metric_reward`."""
    allowed = [each for each in (*TEXT, *IMAGE_TEXT) if each not in OF_SETS]
    if name not in allowed:
        raise InputError(f"{where}: {name!r} is not a reward{nearest(name, [*allowed, *others])}")
    try:
        choices = choices_from(options)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for missing in {**TEXT, **IMAGE_TEXT}[name].missing(choices):
        raise InputError(f"{where}: no model given; name its folder as the reward's option: {{{missing}: FOLDER}}")
    return ["images"] if name in IMAGE_TEXT else ["texts"]


def metric_reward(where: str, name: str, options: dict[str, Any], others: Sequence[str]) -> Callable:
    """A metric by its short name, as a function of texts and references, or of pictures and their prompts; where less
    is better, its score counts negatively. options: `eval.by_name.Choices`. others: names that a message may propose.
    """
    asked_by(where, name, options, others)  # refuses what is no reward
    choices = _choices(options)
    if name in IMAGE_TEXT:
        return _of_pictures(name, IMAGE_TEXT[name](choices))
    return _of_texts(name, TEXT[name](choices))


def _of_pictures(name: str, metric: Accumulator) -> Callable:
    return lambda images, prompts: _scores(name, metric, (to_uint8(images), list(prompts)))


def _of_texts(name: str, metric: Accumulator) -> Callable:
    """A metric of texts, by what it takes: texts alone, one transcript, or several references."""

    def alone(texts: Sequence[str]) -> list[float]:
        return _scores(name, metric, (list(texts), [[""]] * len(texts)))

    def nearest_transcript(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        return _by_nearest(name, metric, texts, references)

    def referenced(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        return _scores(name, metric, (list(texts), list(map(list, references))))

    by_what_it_takes: dict[str, Callable] = {"predictions": alone, "transcripts": nearest_transcript}
    return by_what_it_takes.get(metric.takes, referenced)


def _by_nearest(
    name: str, metric: Accumulator, texts: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """The best score of each text over all its references, by a metric that takes one reference."""
    repeated: list[str] = []
    single: list[list[str]] = []
    for text, own in zip(texts, references):
        repeated += [text] * len(own)
        single += [[reference] for reference in own]
    scores = iter(_scores(name, metric, (repeated, single)))
    return [max(islice(scores, len(own))) for own in references]


def _choices(options: dict[str, Any]) -> MetricOptions:
    from mot_gen.eval.images.clip import ClipEncoder

    made = dict(options)
    if isinstance(made.get("clip"), str):
        made["clip"] = ClipEncoder(made["clip"])
    return choices_from(made)


def _scores(name: str, metric: Accumulator, batch: tuple[Any, Any]) -> list[float]:
    """Each sample's own score; all at once where the metric keeps its samples apart."""
    less_is_better = getattr(metric, "higher_is_better", True) is False
    first, second = batch
    if isinstance(metric, SegmentTable):
        _update(name, metric, first, second)
        found = list(metric.segment_scores())
    else:
        found = [_score_of(name, metric, first, second, slice(n, n + 1)) for n in range(len(second))]
    return [-score for score in found] if less_is_better else found


def _score_of(name: str, metric: Accumulator, first: Any, second: Any, sample: slice) -> float:
    """The score of one sample of a batch."""
    _update(name, metric, first[sample], second[sample])
    (score,) = list(results_of({name: metric}).values())[:1]
    return float(score)


def _update(name: str, metric: Accumulator, first: Any, second: Any) -> None:
    metric.reset()
    if name in TEXT:
        update_text(metric, first, second)
    else:
        metric.update(first, second)
