"""A metric of texts that a user wrote: what cannot be one is refused in a line, before anything is measured."""

import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.eval.accumulator import Accumulator
from mot_gen.eval.text.evaluate import evaluate_text
from mot_gen.eval.text.segments import SegmentMetric


class Words(SegmentMetric):
    """Words a text."""

    name = "words"
    takes = "texts"

    def statistics(self, predictions, references):
        return torch.tensor([[len(text.split()), 1] for text in predictions], dtype=torch.float64)

    def score(self, total):
        return float(total[0] / total[1])


class NoScore(SegmentMetric):
    name = "none"
    takes = "texts"

    def statistics(self, predictions, references):
        return torch.zeros(len(predictions), 1)


class NoUpdate(Accumulator):
    takes = "texts"


class OtherInputs(Words):
    takes = "text"


class OfAFolder(Words):
    def __init__(self, folder, **options):
        super().__init__(**options)


class Flat(Words):
    def statistics(self, predictions, references):
        return torch.zeros(len(predictions))


class Listed(Words):
    def statistics(self, predictions, references):
        return [[1, 1] for _ in predictions]


class Unscored(Words):
    def score(self, total):
        return "good"


def function(predictions, references):
    return 1.0


def measured(name):
    return evaluate_text(["a b", "c"], [["a"], ["b"]], f"{__name__}:{name}", confidence=0.9)


def test_an_own_metric_is_measured_with_the_options_that_it_takes():
    (result,) = measured("Words").values()
    assert result.value == 1.5 and result.interval is not None and result.n == {"segments": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Absent", "has no 'Absent'"),
        ("Word", "has no 'Word'; did you mean 'Words'"),
        ("Listed", r"Listed.statistics: should give a tensor, a row of each segment, got list"),
        ("Unscored", "words: score should give a number, got 'good'"),
        ("function", "must be a class that is based on mot_gen.eval.text.segments.SegmentMetric"),
        ("NoScore", "NoScore must define score"),
        ("NoUpdate", "NoUpdate must define compute, update"),
        ("OtherInputs", "OtherInputs.takes: 'text' is not known; one of: texts"),
        ("OfAFolder", "must be made without arguments; give folder a default"),
        ("Flat", r"Flat.statistics: should give a tensor, a row of each segment, got \(2,\)"),
    ],
)
def test_what_is_no_metric_of_texts_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        measured(name)


def test_a_metric_by_another_name_is_told_its_own():
    for name in (__name__ + ".words", "folder/metric.py"):
        with pytest.raises(InputError, match="is not known; one of your own is named by module and class"):
            evaluate_text(["a"], [["a"]], name)
    with pytest.raises(InputError, match=r"there is no module 'folder/metric\.py'; a module of your own is named"):
        evaluate_text(["a"], [["a"]], "folder/metric.py:Words")
    with pytest.raises(InputError, match="predictions: give a list of texts, a file, or a list of records"):
        evaluate_text({"a": "b"}, {"a": "b"})
