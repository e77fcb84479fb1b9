"""Metrics of `mot-gen eval` as rewards: metric_reward. Those count that score one sample by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mot_gen.errors import InputError, nearest
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.by_name import IMAGE_TEXT, TEXT, Choices, choices_from, results_of, update_text
from mot_gen.eval.images.inputs import to_uint8
from mot_gen.eval.text.segments import SegmentTable

# What they say of one sample alone means nothing.
OF_SETS = ("mauve", "self_bleu", "r_precision", "cider", "cider-d")


def metric_reward(where: str, name: str, options: dict[str, Any], others: Sequence[str]) -> Callable:
    """A metric by its short name, as a function of texts and references, or of pictures and their prompts; where less
    is better, its score counts negatively. options: `eval.by_name.Choices`. others: names that a message may propose.
    """
    allowed = [each for each in (*TEXT, *IMAGE_TEXT) if each not in OF_SETS]
    if name not in allowed:
        raise InputError(f"{where}: {name!r} is not a reward{nearest(name, [*allowed, *others])}")
    choices = _choices(where, options)
    if name in IMAGE_TEXT:
        shown = IMAGE_TEXT[name](choices)
        return lambda images, prompts: _scores(name, shown, (to_uint8(images), list(prompts)))
    metric = TEXT[name](choices)
    if metric.takes == "predictions":
        return lambda texts: _scores(name, metric, (list(texts), [[""] for _ in texts]))
    if metric.takes == "transcripts":
        return lambda texts, references: _by_nearest(name, metric, texts, references)
    return lambda texts, references: _scores(name, metric, (list(texts), [list(own) for own in references]))


def _by_nearest(
    name: str, metric: Accumulator, texts: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Of a metric that takes one reference: the best score over all references of each text."""
    pairs = [(text, reference) for text, own in zip(texts, references) for reference in own]
    scores = iter(_scores(name, metric, ([text for text, _ in pairs], [[reference] for _, reference in pairs])))
    return [max(next(scores) for _ in own) for own in references]


def _choices(where: str, options: dict[str, Any]) -> Choices:
    from mot_gen.eval.images.clip import ClipEncoder

    made = dict(options)
    if isinstance(made.get("clip"), str):
        made["clip"] = ClipEncoder(made["clip"])
    try:
        return choices_from(made)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _scores(name: str, metric: Accumulator, batch: tuple[Any, Any]) -> list[float]:
    """Each sample's own score; all at once where the metric keeps its samples apart."""
    sign = -1.0 if getattr(metric, "higher_is_better", True) is False else 1.0
    first, second = batch
    if isinstance(metric, SegmentTable):
        _update(name, metric, first, second)
        return [sign * score for score in metric.segment_scores()]
    found = []
    for number in range(len(second)):
        _update(name, metric, first[number : number + 1], second[number : number + 1])
        found.append(sign * float(next(iter(results_of({name: metric}).values()))))
    return found


def _update(name: str, metric: Accumulator, first: Any, second: Any) -> None:
    metric.reset()
    if name in TEXT:
        update_text(metric, first, second)
    else:
        metric.update(first, second)
